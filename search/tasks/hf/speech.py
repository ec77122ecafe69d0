"""Speech for encoder-decoder networks such as Whisper: log-mel features of sound files, and the tokens of their transcripts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.io import wavfile
from scipy.signal import resample_poly
from torch import Tensor

from quant_core.util.errors import InputError
from search.tasks.batches import IGNORED


@dataclass(frozen=True, eq=False)
class Speech:
    """Rows with audio and text, judged token by token while the decoder is given the true ones.

    Attributes:
        processor: feature extractor and tokenizer.
        folder: that paths of sound files start from.
        start: the token that the decoder begins with.
        length: most tokens of a transcript.
    """

    processor: Any
    folder: Path
    start: int
    length: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return input_features [B, ...], decoder_input_ids [B, T] and labels [B, T] (-100 where none is judged)."""
        extractor, tokenizer = self.processor.feature_extractor, self.processor.tokenizer
        rate = int(extractor.sampling_rate)
        sounds = [sound(row["audio"], self.folder, rate) for row in rows]
        features = extractor(sounds, sampling_rate=rate, return_tensors="pt")
        silent = set(tokenizer.all_special_ids) - {tokenizer.eos_token_id}
        texts = [self._tokens(tokenizer(str(row["text"]))["input_ids"]) for row in rows]
        longest = max(map(len, texts)) - 1
        inputs = torch.full((len(rows), longest), int(tokenizer.eos_token_id))
        labels = torch.full((len(rows), longest), IGNORED)
        for k, tokens in enumerate(texts):
            inputs[k, : len(tokens) - 1] = torch.tensor(tokens[:-1])
            labels[k, : len(tokens) - 1] = torch.tensor([IGNORED if token in silent else token for token in tokens[1:]])
        return {**features, "decoder_input_ids": inputs, "labels": labels}

    def _tokens(self, tokens: list[int]) -> list[int]:
        """Return the tokens of a transcript, from the decoder's first one to the end of text."""
        end = int(self.processor.tokenizer.eos_token_id)
        tokens = tokens if tokens[:1] == [self.start] else [self.start, *tokens]
        tokens = tokens if tokens[-1] == end else [*tokens, end]
        return tokens[: self.length]


def sound(value: Any, folder: Path, rate: int) -> NDArray[np.float32]:
    """Return a sound, [samples], one channel in [-1, 1] at `rate` samples per second.

    Args:
        value: path of a .wav file, or of an .npy file with samples at that rate; or the mapping of the library datasets.
        folder: that the path starts from.
        rate: that the network was trained at.

    Raises:
        InputError: there is no such file, or it holds no sound.
    """
    if isinstance(value, Mapping) and "array" in value:
        return _resampled(np.asarray(value["array"], dtype=np.float32), int(value.get("sampling_rate", rate)), rate)
    path = folder / str(value)
    try:
        if path.suffix.lower() == ".npy":
            return np.asarray(np.load(path, allow_pickle=False), dtype=np.float32)
        own_rate, samples = wavfile.read(path)
    except (OSError, ValueError) as error:
        raise InputError(f"sound {path} cannot be read: {error}. Uncompressed .wav files, and .npy files of samples, are read.") from error
    if samples.dtype.kind in "iu":
        zero, full = (128.0, 128.0) if samples.dtype == np.uint8 else (0.0, float(np.iinfo(samples.dtype).max) + 1.0)
        samples = (samples.astype(np.float32) - zero) / full
    mono = samples.mean(axis=1) if samples.ndim == 2 else samples
    return _resampled(mono.astype(np.float32), int(own_rate), rate)


def _resampled(samples: NDArray[np.float32], own_rate: int, rate: int) -> NDArray[np.float32]:
    """Return samples at another rate, by a polyphase filter."""
    if own_rate == rate:
        return samples
    divisor = gcd(own_rate, rate)
    return np.asarray(resample_poly(samples, rate // divisor, own_rate // divisor), dtype=np.float32)
