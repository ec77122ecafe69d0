"""The task hf on images and speech, and its answers to data that do not fit the network."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from quant_core.util.errors import InputError
from search import tasks
from search.tasks.hf.speech import sound
from search.tasks.hf.task import hf

pytest.importorskip("transformers", reason="transformers is an extra: pip install 'bitfront[transformers]'")
Image = pytest.importorskip("PIL.Image", reason="Pillow is an extra: pip install 'bitfront[images]'")

Saver = Callable[..., Path]


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    folder = tmp_path_factory.mktemp("vit")
    names = {"cat": 1, "dog": 0}
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=16,
        patch_size=8,
        label2id=names,
        id2label={number: name for name, number in names.items()},
    )
    torch.manual_seed(0)
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def photos(folder: Path, classes: tuple[str, ...]) -> Path:
    for number, name in enumerate(classes):
        (folder / name).mkdir()
        for k in range(8):
            Image.fromarray(np.full((20, 24, 3), 100 * number + k, dtype=np.uint8)).save(folder / name / f"{k}.png")
    return folder


def test_images_have_the_numbers_of_the_networks_classes(vit: Path, tmp_path: Path) -> None:
    data = photos(tmp_path, ("cat", "dog"))
    task = tasks.load("hf", {"model": str(vit), "kind": "image-classification", "data": str(data), "calib_size": 4, "batch_size": 3})
    for inputs, targets in task.test:
        assert inputs["pixel_values"].shape[1:] == (3, 16, 16)
        bright = inputs["pixel_values"].mean(dim=(1, 2, 3)) > -0.5  # the dogs: pixels from 100 on, (100 / 255 - 0.5) / 0.5 = -0.2
        assert bool((targets == torch.where(bright, 0, 1)).all())
    assert sum(len(targets) for _, targets in task.test) == 6


def test_folders_that_are_no_classes_are_counted_or_refused(vit: Path, tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    (tmp_path / "three").mkdir()
    options = {"model": str(vit), "kind": "image-classification", "calib_size": 4}
    task = tasks.load("hf", options | {"data": str(photos(tmp_path / "two", ("a", "b")))})
    assert {int(label) for _, targets in task.valid for label in targets} <= {0, 1}
    with pytest.raises(InputError, match=r"has 3 folders, and the network 2 classes: name the folders as its classes are named"):
        hf(**options, data=str(photos(tmp_path / "three", ("a", "b", "c"))))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    folder = tmp_path_factory.mktemp("whisper")
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(["<end>", "<start>", "yes", "no", "?"])}, unk_token="?"))
    core.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="?", eos_token="<end>", pad_token="<end>", bos_token="<start>")
    config = WhisperConfig(
        vocab_size=5,
        num_mel_bins=8,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_source_positions=50,
        max_target_positions=12,
        decoder_start_token_id=1,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    network = WhisperForConditionalGeneration(config)
    network.generation_config.suppress_tokens = network.generation_config.begin_suppress_tokens = None
    network.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=8, sampling_rate=16000, chunk_length=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def recordings(folder: Path, count: int = 8) -> Path:
    from scipy.io import wavfile

    rng, lines = np.random.default_rng(0), []
    for k in range(count):
        wavfile.write(folder / f"{k}.wav", 8000, (rng.standard_normal(4000) * 3000).astype(np.int16))
        lines.append(json.dumps({"audio": f"{k}.wav", "text": "yes no" if k % 2 else "no"}))
    (folder / "all.jsonl").write_text("\n".join(lines))
    return folder / "all.jsonl"


def test_speech_is_judged_token_by_token(whisper: Path, tmp_path: Path) -> None:
    options = {"model": str(whisper), "kind": "speech", "data": str(recordings(tmp_path)), "calib_size": 2, "batch_size": 4}
    task = tasks.load("hf", options)
    inputs, labels = next(iter(task.valid))
    assert inputs["input_features"].shape[1:] == (8, 100)
    for given, wanted in zip(inputs["decoder_input_ids"].tolist(), labels.tolist(), strict=True):
        words = [token for token in wanted if token != -100]
        assert words in ([3, 0], [2, 3, 0])
        assert given[: len(words)] == [1, *words[:-1]]
    assert [info.name for info in task.infos] == ["perplexity", "accuracy", "kld", "kld_q999", "flips"]
    assert task.class_axis == 2


def test_sounds_are_read_at_the_networks_rate(tmp_path: Path) -> None:
    from scipy.io import wavfile

    wave = np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
    wavfile.write(tmp_path / "a.wav", 8000, np.stack([wave * 16384, wave * 16384], axis=1).astype(np.int16))
    read = sound("a.wav", tmp_path, 16000)
    wanted = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    np.testing.assert_allclose(read[500:-500], wanted[500:-500], atol=2e-3)
    np.save(tmp_path / "b.npy", wanted)
    np.testing.assert_allclose(sound("b.npy", tmp_path, 16000), wanted, atol=1e-6)
    np.testing.assert_array_equal(sound({"array": [0.0, 1.0], "sampling_rate": 16000}, tmp_path, 16000), [0.0, 1.0])
    (tmp_path / "c.wav").write_text("no sound")
    with pytest.raises(InputError, match=r"c.wav cannot be read: .* Uncompressed .wav files"):
        sound("c.wav", tmp_path, 16000)
    with pytest.raises(InputError, match=r"d.wav cannot be read"):
        sound("d.wav", tmp_path, 16000)


@pytest.mark.parametrize(
    ("kind", "network", "options", "message"),
    [
        ("causal-lm", "LlamaForCausalLM", {"length": 400}, "length = 400: give a whole number from 1 to 32"),
        ("causal-lm", "LlamaForCausalLM", {"length": 1}, "length = 1 holds no token beside 1 special ones"),
        (
            "causal-lm",
            "LlamaForCausalLM",
            {"length": 16, "calib_size": 30},
            "has 24 sequences; calib_size = 30 leaves none for valid and test",
        ),
        (
            "causal-lm",
            "LlamaForCausalLM",
            {"length": 16, "calib_size": 4, "valid_size": 20},
            "calib_size = 4 and valid_size = 20 leave none for test",
        ),
        ("causal-lm", "LlamaForCausalLM", {"length": 16, "calib_size": 0}, "calib_size = 0: give a whole number of at least 1"),
        (
            "masked-lm",
            "BertForMaskedLM",
            {"batch_size": 0, "length": 8, "calib_size": 8},
            "batch_size = 0: give a whole number of at least 1",
        ),
    ],
)
def test_text_that_does_not_fit_is_answered(
    kind: str, network: str, options: dict[str, Any], message: str, saved: Saver, text_file: Path
) -> None:
    with pytest.raises(InputError, match=message):
        hf(str(saved(network)), kind, str(text_file), **options)


def test_a_text_shorter_than_one_sequence_is_answered(saved: Saver, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("the cat sat")
    with pytest.raises(InputError, match=r"short.txt has 3 tokens, and one sequence needs 15: give more text, or a smaller length"):
        hf(str(saved("LlamaForCausalLM")), "causal-lm", str(tmp_path / "short.txt"), length=16)


def test_labels_that_the_network_does_not_have_are_answered(saved: Saver, labelled_file: Path) -> None:
    with pytest.raises(InputError, match=r"label '(good|bad)' is no class of the network; its 2 classes: LABEL_0, LABEL_1 \(0 to 1\)"):
        hf(str(saved("BertForSequenceClassification")), "text-classification", str(labelled_file), calib_size=4)
    with pytest.raises(InputError, match=r"holds the score '(good|bad)'; numbers are needed"):
        hf(str(saved("BertForSequenceClassification", num_labels=1)), "text-classification", str(labelled_file), calib_size=4)


def test_a_pooling_that_is_not_known_is_refused(saved: Saver, pairs_file: Path) -> None:
    folder = saved("BertModel")
    options: dict[str, Any] = {"columns": {"label": 0, "text": 1, "text2": 2}, "calib_size": 4}
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}')
    task = hf(str(folder), "sentence-similarity", str(pairs_file), **options)
    assert task.model.first is True
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(InputError, match="pools by 'max_tokens'; mean_tokens and cls_token are known here"):
        hf(str(folder), "sentence-similarity", str(pairs_file), **options)
    (folder / "modules.json").write_text('[{"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]')
    with pytest.raises(InputError, match="has the step Dense of sentence-transformers"):
        hf(str(folder), "sentence-similarity", str(pairs_file), **options)


def test_speech_needs_its_feature_extractor(whisper: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "bare"
    shutil.copytree(whisper, folder)
    for name in ("preprocessor_config.json", "processor_config.json"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(InputError, match=r"has no processor beside its weights"):
        hf(str(folder), "speech", str(recordings(tmp_path)), calib_size=2)
