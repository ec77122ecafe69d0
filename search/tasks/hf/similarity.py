"""The similarity of two sentences: cosine of their pooled embeddings, as sentence-transformers computes it."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from quant_core.util.errors import InputError
from quant_core.util.text import listed

STEPS = ("Transformer", "Pooling", "Normalize")


class SentencePairs(nn.Module):
    """An encoder that gives the cosine of two sentences.

    Args:
        model: tokens [N, T] -> `last_hidden_state` [N, T, H].
        first: the embedding is that of the first token; otherwise the mean over the tokens of the mask.
    """

    def __init__(self, model: nn.Module, first: bool) -> None:
        super().__init__()
        self.model, self.first = model, first

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **others: Tensor) -> Tensor:
        """Map tokens [B, 2, T] to the cosine of their embeddings, [B]."""
        flat = {name: value.flatten(0, 1) for name, value in others.items()}
        mask = attention_mask.flatten(0, 1)
        hidden = self.model(input_ids=input_ids.flatten(0, 1), attention_mask=mask, **flat).last_hidden_state
        if self.first:
            pooled = hidden[:, 0]
        else:
            weights = mask.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
        pairs = nn.functional.normalize(pooled, dim=-1).view(-1, 2, pooled.shape[-1])
        cosine: Tensor = (pairs[:, 0] * pairs[:, 1]).sum(dim=-1)
        return cosine


def takes_first(model: str) -> bool:
    """Tell whether a folder of sentence-transformers pools by the first token; the mean, where it says nothing.

    Raises:
        InputError: it has another pooling, or steps that are not known here.
    """
    folder = Path(model).expanduser()
    modules = _read(folder / "modules.json") or []
    steps = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    strange = [step for step in steps if step not in STEPS]
    if strange:
        raise InputError(f"model = {model!r} has the step {listed(strange)} of sentence-transformers; {listed(STEPS)} are known here.")
    place = next((str(module.get("path", "")) for module, step in zip(modules, steps, strict=True) if step == "Pooling"), "1_Pooling")
    pooling = _read(folder / place / "config.json") or {}
    modes = [mode.removeprefix("pooling_mode_") for mode, used in pooling.items() if mode.startswith("pooling_mode_") and used is True]
    mode = pooling.get("pooling_mode") or (modes[0] if len(modes) == 1 else "mean_tokens" if not modes else "+".join(modes))
    if mode not in ("mean_tokens", "mean", "cls_token", "cls"):
        raise InputError(f"model = {model!r} pools by {mode!r}; mean_tokens and cls_token are known here.")
    return mode.startswith("cls")


def _read(path: Path) -> Any:
    """Return the contents of a JSON file; None where there is no file.

    Raises:
        InputError: it is damaged.
    """
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is no JSON: {error}. Get the folder again.") from error
