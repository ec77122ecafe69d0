"""The training recipe: it learns, is deterministic by seed, is cached by everything that it depends on, and augments as stated."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from quant_core.util.errors import BitfrontError, InputError
from search.tasks.cache import digest
from search.tasks.images import Images, Scale
from search.tasks.training import Recipe, augment, fit

ROOT = Path(__file__).parents[3]
RECIPE = Recipe(epochs=2, batch=16, rate=0.1, shift=1, flip=True, threads=1)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Images:
    """Bright above is class 0, bright below is class 1."""
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path))
    labels = torch.arange(200) % 2
    pixels = torch.randint(0, 100, (200, 1, 6, 6), generator=torch.Generator().manual_seed(0))
    pixels[labels == 0, :, :3] += 60
    pixels[labels == 1, :, 3:] += 60
    return Images(pixels.to(torch.uint8), labels)


def state(images: Images, recipe: Recipe, scale: Scale | None = None) -> dict[str, Tensor]:
    return dict(fit("net", network, images, scale or Scale(), recipe).state_dict())


def test_training_learns_and_returns_a_network_in_eval_mode(images: Images) -> None:
    model = fit("net", network, images, Scale(), RECIPE)
    assert not model.training
    with torch.no_grad():
        right = (model(Scale()(images.pixels)).argmax(1) == images.labels).float().mean()
    assert float(right) > 0.95
    assert not any(p.requires_grad and p.grad is not None for p in model.parameters())


def test_weights_depend_on_the_recipe_alone(images: Images, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = digest(state(images, RECIPE))
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path / "anew"))
    torch.manual_seed(123)
    torch.set_default_dtype(torch.float32)
    assert digest(state(images, RECIPE)) == first
    for other in (
        {"seed": 1},
        {"rate": 0.2},
        {"decay": 0.1},
        {"smoothing": 0.1},
        {"shift": 0},
        {"flip": False},
        {"epochs": 1},
        {"batch": 20},
    ):
        assert digest(state(images, replace(RECIPE, **other))) != first, other
    assert digest(state(images, RECIPE, Scale(100.0))) != first


def test_in_float64_the_weights_do_not_depend_on_the_processor_s_kernels(images: Images, tmp_path: Path) -> None:
    recipe = replace(RECIPE, dtype="float64", epochs=20)
    here = state(images, recipe)
    assert {value.dtype for value in here.values()} == {torch.float32, torch.int64}
    code = (
        "import torch; from tests.search.tasks.test_training import network, Images, Scale, fit, Recipe, digest;"
        f"data = torch.load({str(tmp_path / 'images.pt')!r});"
        f"print(digest(fit('net', network, Images(*data), Scale(), {recipe!r}).state_dict()))"
    )
    torch.save((images.pixels, images.labels), tmp_path / "images.pt")
    kernels = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
    environment = os.environ | kernels | {"BITFRONT_CACHE": str(tmp_path / "elsewhere")}
    told = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == digest(here)
    assert torch.get_default_dtype() == torch.float32


def test_other_images_or_another_network_are_another_training(images: Images, tmp_path: Path) -> None:
    fit("net", network, images, Scale(), RECIPE)
    fit("net", network, images.subset(slice(100)), Scale(), RECIPE)
    fit("net", lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 2)), images, Scale(), RECIPE)
    fit("net", network, images, Scale(), replace(RECIPE, revision=2))
    assert len(list(tmp_path.glob("net-*.safetensors"))) == 4
    fit("net", network, images, Scale(), RECIPE)
    assert len(list(tmp_path.glob("net-*.safetensors"))) == 4


def test_threads_and_random_numbers_of_the_process_are_left_alone(images: Images) -> None:
    before = torch.get_num_threads(), torch.random.get_rng_state()
    fit("net", network, images, Scale(), replace(RECIPE, threads=3 - min(before[0], 2)))
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.random.get_rng_state(), before[1])


def test_a_batch_larger_than_the_split_still_trains(images: Images) -> None:
    few = images.subset(slice(10))
    trained = state(few, replace(RECIPE, batch=64))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RECIPE.seed)
        assert digest(trained) != digest(dict(network().state_dict()))


def test_weight_decay_spares_biases_and_batch_norms(images: Images) -> None:
    dark = Images(torch.zeros_like(images.pixels), images.labels)  # the first convolution's weight gets no gradient but decay
    for decay, shrinks in ((0.0, False), (0.5, True)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            start = network().state_dict()["0.weight"].abs().sum()
        end = state(dark, replace(RECIPE, decay=decay))["0.weight"].abs().sum()
        assert bool(end < 0.9 * start) == shrinks


def test_shift_moves_whole_images_by_at_most_so_many_pixels() -> None:
    images = torch.zeros(300, 1, 7, 7, dtype=torch.uint8)
    images[:, :, 3, 3] = 9
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        moved = augment(images, 2, False)
    places = moved.flatten(1).argmax(dim=1)
    rows, columns = (places // 7 - 3).tolist(), (places % 7 - 3).tolist()
    assert moved.sum(dim=(1, 2, 3)).unique().tolist() == [9]
    assert set(zip(rows, columns, strict=True)) == {(a, b) for a in range(-2, 3) for b in range(-2, 3)}


def test_flip_mirrors_about_half_of_the_images_left_to_right() -> None:
    images = torch.arange(12, dtype=torch.uint8).view(1, 1, 3, 4).repeat(400, 1, 1, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        flipped = augment(images, 0, True)
    mirrored = (flipped == images.flip(3)).all(dim=(1, 2, 3))
    same = (flipped == images).all(dim=(1, 2, 3))
    assert bool((mirrored | same).all())
    assert 140 < int(mirrored.sum()) < 260


@pytest.mark.parametrize(
    ("option", "value", "least"), [("seed", -1, 0), ("seed", 1.5, 0), ("epochs", 0, 1), ("epochs", True, 1), ("epochs", "3", 1)]
)
def test_bad_recipes_are_refused(option: str, value: object, least: int) -> None:
    with pytest.raises(InputError, match=rf"{option} = {value!r}: give a whole number of at least {least}\."):
        replace(RECIPE, **{option: value})


def test_diverging_training_is_an_error_and_is_not_kept(images: Images, tmp_path: Path) -> None:
    def overflowing() -> nn.Module:
        model = network()
        nn.init.constant_(model[0].weight, torch.inf)  # type: ignore[index]
        return model

    with pytest.raises(BitfrontError, match="training net diverged: loss nan in epoch 1"):
        fit("net", overflowing, images, Scale(), RECIPE)
    assert not list(tmp_path.iterdir())


def test_nothing_asked_changes_nothing() -> None:
    images = torch.randint(0, 255, (3, 2, 4, 4), dtype=torch.uint8)
    assert augment(images, 0, False) is images
