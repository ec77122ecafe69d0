"""Tiny configurations of transformers' networks: text, images, sound, both; inputs as their processors give them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.zoo.many_cases import COUNT, Case, images, tokens

VOCABULARY = 32
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
TEXT = {"vocab_size": VOCABULARY, "max_position_embeddings": 16, "pad_token_id": 0, **SIZES}
PIXELS = {"image_size": 16, "patch_size": 4, "num_channels": 3, **SIZES}
DECODER = {**TEXT, "num_key_value_heads": 1, "bos_token_id": 1, "eos_token_id": 2}
MOVED = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def network(kind: str, body: str, **config: Any) -> Callable[[], nn.Module]:
    """Return the maker of a network of `kind` ("Bert") and of the class kind + `body`."""

    def make() -> nn.Module:
        import transformers

        model: nn.Module = getattr(transformers, kind + body)(getattr(transformers, f"{kind}Config")(**config))
        return model

    return make


def ids(length: int = 8) -> Callable[[], dict[str, torch.Tensor]]:
    return lambda: {"input_ids": tokens(length)(), "attention_mask": torch.ones(COUNT, length, dtype=torch.long)}


def both() -> dict[str, torch.Tensor]:
    return {"input_ids": tokens()(), "decoder_input_ids": tokens(5)()}


def pictures(size: int = 16) -> Callable[[], dict[str, torch.Tensor]]:
    return lambda: {"pixel_values": torch.randn(COUNT, 3, size, size)}


def clip() -> nn.Module:
    import transformers

    text = {**TEXT, "eos_token_id": 2, "bos_token_id": 1, "projection_dim": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config={**PIXELS, "projection_dim": 8}, projection_dim=8)
    return transformers.CLIPModel(config)


def depth() -> nn.Module:
    import transformers

    sizes = {key: value for key, value in PIXELS.items() if key != "intermediate_size"}
    backbone = transformers.Dinov2Config(
        **{**sizes, "num_hidden_layers": 2}, out_indices=[1, 2], reshape_hidden_states=False, apply_layernorm=True
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        patch_size=4,
        reassemble_hidden_size=16,
        reassemble_factors=[2, 1],
        neck_hidden_sizes=[8, 12],
        fusion_hidden_size=8,
        head_hidden_size=8,
        head_in_index=-1,
    )
    return transformers.DepthAnythingForDepthEstimation(config)


def segformer() -> nn.Module:
    import transformers

    two = {
        "depths": [1, 1],
        "sr_ratios": [2, 1],
        "hidden_sizes": [8, 16],
        "patch_sizes": [7, 3],
        "strides": [4, 2],
        "num_attention_heads": [1, 2],
    }
    return transformers.SegformerForSemanticSegmentation(
        transformers.SegformerConfig(num_encoder_blocks=2, mlp_ratios=[2, 2], decoder_hidden_size=12, num_labels=4, **two)
    )


SPEECH = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "num_mel_bins": 8,
    "max_source_positions": 12,
    "max_target_positions": 16,
    "decoder_start_token_id": 1,
    **MOVED,
}
WAVE = {
    "conv_dim": (8, 8),
    "conv_stride": (4, 2),
    "conv_kernel": (8, 3),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_prob": 0.0,
    "mask_feature_prob": 0.0,
}
TRANSLATION = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 16,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
    **MOVED,
}
GPT = {"vocab_size": VOCABULARY, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": 1, "eos_token_id": 2}
MIXTURE = {**DECODER, "num_key_value_heads": 2}

TRANSFORMERS = {
    "bert": Case(network("Bert", "ForSequenceClassification", **TEXT, num_labels=4), ids()),
    "distilbert": Case(
        network(
            "DistilBert",
            "ForTokenClassification",
            vocab_size=VOCABULARY,
            max_position_embeddings=16,
            dim=16,
            hidden_dim=24,
            n_layers=1,
            n_heads=2,
            num_labels=4,
        ),
        ids(),
    ),
    "albert, shared layers": Case(network("Albert", "ForMaskedLM", **{**TEXT, "num_hidden_layers": 3}, embedding_size=8), ids()),
    "deberta v2": Case(
        network("DebertaV2", "ForSequenceClassification", **TEXT, relative_attention=True, pos_att_type=["p2c", "c2p"], num_labels=4),
        ids(),
        left=("*rel_embeddings.weight",),
    ),
    "gpt2": Case(network("GPT2", "LMHeadModel", **GPT), ids()),
    "gpt neox": Case(network("GPTNeoX", "ForCausalLM", **TEXT), ids()),
    "llama": Case(network("Llama", "ForCausalLM", **DECODER, tie_word_embeddings=True), ids()),
    "llama, bfloat16": Case(lambda: network("Llama", "ForCausalLM", **DECODER)().bfloat16(), ids(), onnx=False),
    "llama, float16": Case(lambda: network("Llama", "ForCausalLM", **DECODER)().half(), ids()),
    "qwen3": Case(network("Qwen3", "ForCausalLM", **DECODER, head_dim=8), ids()),
    "gemma3": Case(network("Gemma3Text", "Model", **DECODER, head_dim=8), ids(), "last_hidden_state", classes=False),
    "phi3, fused projections": Case(network("Phi3", "ForCausalLM", **DECODER), ids()),
    "bloom": Case(network("Bloom", "ForCausalLM", vocab_size=VOCABULARY, hidden_size=16, n_layer=1, n_head=2, **MOVED), ids()),
    "opt": Case(
        network("OPT", "ForCausalLM", **{k: v for k, v in TEXT.items() if k != "intermediate_size"}, ffn_dim=24, word_embed_proj_dim=16),
        ids(),
    ),
    "mixtral": Case(network("Mixtral", "ForCausalLM", **MIXTURE, num_local_experts=4), ids(), onnx=False),
    "qwen3 moe": Case(
        network("Qwen3Moe", "ForCausalLM", **MIXTURE, moe_intermediate_size=12, num_experts=4, num_experts_per_tok=2, head_dim=8),
        ids(),
        onnx=False,
    ),
    "mamba": Case(
        network("Mamba", "ForCausalLM", vocab_size=VOCABULARY, hidden_size=12, state_size=4, num_hidden_layers=1, **MOVED),
        ids(),
        left=("*A_log",),
    ),
    "t5": Case(
        network(
            "T5",
            "ForConditionalGeneration",
            vocab_size=VOCABULARY,
            d_model=16,
            d_kv=8,
            d_ff=24,
            num_layers=1,
            num_heads=2,
            decoder_start_token_id=0,
        ),
        both,
    ),
    "bart": Case(network("Bart", "ForConditionalGeneration", **TRANSLATION), both),
    "whisper": Case(
        network("Whisper", "ForConditionalGeneration", **SPEECH),
        lambda: {"input_features": torch.randn(COUNT, 8, 24), "decoder_input_ids": tokens(5)()},
    ),
    "wav2vec2": Case(
        network("Wav2Vec2", "ForCTC", **{k: v for k, v in TEXT.items() if k != "max_position_embeddings"}, **WAVE), images(64)
    ),
    "vit": Case(network("ViT", "ForImageClassification", **PIXELS, num_labels=4), pictures(), left=("*cls_token", "*position_embeddings")),
    "swin": Case(
        network(
            "Swin",
            "ForImageClassification",
            image_size=16,
            patch_size=2,
            embed_dim=8,
            depths=[2, 1],
            num_heads=[2, 2],
            window_size=4,
            num_labels=4,
        ),
        pictures(),
        left=("*relative_position_bias_table",),
    ),
    "convnext v2": Case(
        network("ConvNextV2", "ForImageClassification", patch_size=4, hidden_sizes=[8, 12], depths=[1, 1], num_stages=2, num_labels=4),
        pictures(),
        left=("*grn.weight", "*grn.bias"),
    ),
    "yolos": Case(
        network("Yolos", "ForObjectDetection", **{**PIXELS, "image_size": [16, 16]}, num_detection_tokens=4, num_labels=4),
        pictures(),
        "pred_boxes",
        classes=False,
        left=("*tokens", "*cls_token", "*position_embeddings", "*mid_position_embeddings"),
    ),
    "clip": Case(clip, lambda: {"input_ids": tokens()(), "pixel_values": torch.randn(COUNT, 3, 16, 16)}, "image_embeds", classes=False),
    "depth anything": Case(
        depth,
        pictures(),
        "predicted_depth",
        classes=False,
        left=("*cls_token", "*mask_token", "*position_embeddings", "*layers.0.residual_layer1*"),
    ),
    "mamba2": Case(
        network(
            "Mamba2",
            "ForCausalLM",
            vocab_size=VOCABULARY,
            hidden_size=16,
            state_size=4,
            num_hidden_layers=1,
            num_heads=4,
            head_dim=8,
            n_groups=1,
            chunk_size=4,
            **MOVED,
        ),
        ids(),
    ),
    "patchtst": Case(
        network(
            "PatchTST",
            "ForPrediction",
            num_input_channels=3,
            context_length=32,
            prediction_length=8,
            patch_length=8,
            patch_stride=8,
            num_hidden_layers=1,
            d_model=16,
            num_attention_heads=2,
            ffn_dim=24,
            loss="mse",
        ),
        lambda: {"past_values": torch.randn(COUNT, 32, 3)},
        "prediction_outputs",
        classes=False,
        left=("*position_enc",),
    ),
    "segformer": Case(segformer, pictures(32)),
}
