"""Blocks: where graphs whose structure is plain to see are cut, and networks that are not."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant_core.network.blocks import LARGEST, BlockError, BlockRunner, WholeNetwork
from quant_core.network.forward import forward

X = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    """A stem, two residual blocks (the second with a convolution on its shortcut), a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.c, self.d, self.short = nn.Conv2d(4, 6, 3, stride=2), nn.Conv2d(6, 6, 1), nn.Conv2d(4, 6, 3, stride=2)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x - 0.5))
        x = F.relu(x + self.b(F.relu(self.a(x))), inplace=True)
        x = F.relu(self.d(F.relu_(self.c(x))) + self.short(x))
        return self.head(x.mean(dim=(2, 3)))


class Attention(nn.Module):
    """Attention with a mask of the tokens that every block reads, and a last layer that reads the tokens again."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.mix = nn.ModuleList(nn.ModuleDict({key: nn.Linear(8, 8) for key in "qkvo"}) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = (tokens != 0)[:, None, :]
        x = self.embed(tokens)
        for mix in self.mix:
            y = self.norm(x)
            q, k, v = mix["q"](y), mix["k"](y), mix["v"](y)
            x = x + mix["o"](F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
        return self.head(x * tokens[..., None].clamp(max=1))


class Skipping(nn.Module):
    """The first output is read at the end again: nothing between can be cut."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(depth))
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        first = y = self.layers[0](x)
        for layer in self.layers[1:]:
            y = torch.relu(layer(y))
        return self.head(torch.cat([first, y], dim=1))


def runner(
    model: nn.Module, example: Tensor, joined: int = 1, kinds: tuple[type, ...] = (nn.Conv2d, nn.Linear, nn.Embedding)
) -> BlockRunner:
    watched = {name: module for name, module in model.eval().named_modules() if isinstance(module, kinds)}
    return BlockRunner(model, watched, example, joined)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval().requires_grad_(False)


TOKENS = torch.tensor([[1, 2, 3, 0], [4, 5, 0, 0], [6, 7, 8, 9]])


def layers_of(blocks: BlockRunner) -> list[tuple[str, ...]]:
    return [block.layers for block in blocks.blocks]


def test_residual_sums_are_closed_inside_blocks() -> None:
    assert layers_of(runner(seeded(Residual), X)) == [("stem",), ("a", "b"), ("c", "d", "short"), ("head",)]


def test_small_neighbours_are_joined() -> None:
    assert layers_of(runner(seeded(Residual), X, 3)) == [("stem", "a", "b"), ("c", "d", "short"), ("head",)]


def test_masks_and_inputs_may_cross_cuts() -> None:
    blocks = [tuple(f"mix.{i}.{key}" for key in "qkvo") for i in range(2)]
    assert layers_of(runner(seeded(Attention), TOKENS)) == [("embed",), *blocks, ("head",)]


@pytest.mark.parametrize(
    ("make", "batch", "other"), [(Residual, X, X.flip(0) * 2), (Attention, TOKENS, TOKENS.flip(1)), (Residual, X, X[:2])]
)
def test_blocks_one_after_the_other_are_the_network(make: Callable[[], nn.Module], batch: Tensor, other: Tensor) -> None:
    model = seeded(make)
    blocks = runner(model, batch)
    before = None
    for block in blocks.blocks:
        before = blocks.run(block, other, before)
    assert torch.equal(before, forward(model, other))
    blocks.require_same(other)


def test_a_stretch_without_cuts_is_one_block_up_to_a_size() -> None:
    for depth, cut in ((3, True), (LARGEST + 1, False)):
        first, middle, last = runner(seeded(lambda depth=depth: Skipping(depth + 1)), torch.ones(2, 4)).blocks
        assert (first.layers, last.layers) == (("layers.0",), ("head",))
        assert (len(middle.layers), middle.cut) == (depth, cut)


def test_gradients_pass_through_a_block() -> None:
    model = seeded(Residual)
    blocks = runner(model, X)
    source = torch.rand(4, 4, 8, 8, requires_grad=True)
    blocks.run(blocks.blocks[1], X, source * 1).sum().backward()
    assert float(source.grad.abs().sum()) > 0


def test_what_enters_a_block_is_not_written_to() -> None:
    class Overwriting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            y = self.a(x)
            x += 1
            return self.b(x * y)

    model = seeded(Overwriting)
    blocks = runner(model, torch.ones(2, 4))
    assert layers_of(blocks) == [("first",), ("a",), ("b",)]
    before = blocks.run(blocks.blocks[0], torch.ones(2, 4), None)
    kept = before.clone()
    blocks.run(blocks.blocks[1], torch.ones(2, 4), before)
    assert torch.equal(before, kept)


class Turning(nn.Module):
    """Takes one of two ways by what the batch holds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.second(y if float(x.mean()) > 0 else -y)


def test_what_depends_on_more_than_calls_is_refused() -> None:
    blocks = runner(seeded(Turning), torch.ones(2, 4))
    blocks.require_same(torch.ones(2, 4) * 3)
    with pytest.raises(BlockError, match="depend on more than the calls that were recorded"):
        blocks.require_same(-torch.ones(2, 4))


def test_another_order_for_another_shape_is_refused() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x)) if len(x) == 2 else self.layer(x)

    blocks = runner(seeded(Twice), torch.ones(2, 4))
    with pytest.raises(BlockError, match="batches of other shapes call its layers in another order"):
        blocks.require_same(torch.ones(3, 4))


def test_a_network_that_calls_no_layer_is_refused() -> None:
    with pytest.raises(BlockError, match="no layer is called"):
        runner(nn.ReLU(), torch.ones(2, 4))


def test_a_whole_network_is_one_stretch_that_is_not_cut() -> None:
    model = seeded(Turning)
    whole = WholeNetwork(model, ("first", "second"))
    assert [block.cut for block in whole.blocks] == [False]
    assert torch.equal(whole.run(whole.blocks[0], torch.ones(2, 4), None), model(torch.ones(2, 4)))
