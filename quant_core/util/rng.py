"""The random numbers of one training run, separate from those of the rest of the program: torch (CPU and GPU), numpy and Python."""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Item = TypeVar("Item")
State = dict[str, object]


def capture() -> State:
    """Return the state of every generator, in a form that `torch.save` writes and `torch.load(weights_only=True)` reads."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys, dtype=np.int64)), int(position), int(has_gauss), float(gauss)],
        "python": random.getstate(),
    }


def restore(state: State) -> None:
    """Set every generator to a captured state."""
    torch_state, cuda_states, numpy_state, python_state = (state[key] for key in ("torch", "cuda", "numpy", "python"))
    assert isinstance(torch_state, torch.Tensor)
    assert isinstance(cuda_states, list)
    assert isinstance(numpy_state, list)
    assert isinstance(python_state, tuple)
    torch.set_rng_state(torch_state)
    if cuda_states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(cuda_states)
    np.random.set_state((numpy_state[0], numpy_state[1].numpy().astype(np.uint32), *numpy_state[2:]))
    random.setstate(python_state)


def seed(*parts: int) -> None:
    """Seed every generator from a few integers."""
    mixed = int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])
    torch.manual_seed(mixed)
    np.random.seed(mixed % 2**32)
    random.seed(mixed)


@contextmanager
def repeatable() -> Iterator[None]:
    """Give the block generators of its own that start alike every time: shuffling and noise inside it come out the same."""
    with private():
        seed(0)
        yield


def isolated(source: Iterable[Item], start: int = 0) -> Iterator[Item]:
    """Iterate over `source` with generators of its own, seeded by `start`.

    Nothing that the caller draws between two items changes them, and nothing that the source draws changes what the caller draws.
    """
    with private():
        seed(start)
        iterator, state = iter(source), capture()
    while True:
        with private():
            restore(state)
            try:
                item = next(iterator)
            except StopIteration:
                return
            state = capture()
        yield item
        del item  # the caller's alone while the next one is read


@contextmanager
def private() -> Iterator[None]:
    """Give the block generators of its own: whatever it does with them, they are as before afterwards."""
    before = capture()
    try:
        yield
    finally:
        restore(before)


def generator(seed_of: int) -> torch.Generator:
    """Return a seeded generator of the CPU. Draw by `uniform` and its like, so that every device sees the same numbers."""
    return torch.Generator().manual_seed(seed_of)


def uniform(shape: tuple[int, ...], source: torch.Generator | None, device: torch.device) -> Tensor:
    """Return float32 numbers of [0, 1) on `device`, drawn where `source` is; without one by the device's default generator."""
    place = device if source is None else source.device
    return torch.rand(shape, generator=source, device=place, dtype=torch.float32).to(device)
