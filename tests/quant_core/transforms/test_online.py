import copy
import pickle

import torch
from torch import nn

from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.policy import parse_layer_policy
from quant_core.transforms.online import LEFT, RIGHT, restore_rotations, rotate_input
from spaces.rules import uniform_policy


def layer(inputs: int) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, 5)


def test_outputs_stay_and_copies_and_pickles_rotate_too() -> None:
    x = torch.randn(3, 7, 172)
    linear = layer(172)
    expected = linear(x)
    rotate_input(linear, 0)
    assert (linear.get_buffer(LEFT).shape, linear.get_buffer(RIGHT).shape) == ((4, 4), (43, 43))
    for network in (linear, copy.deepcopy(linear), pickle.loads(pickle.dumps(linear))):
        torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)


def test_the_engine_quantizes_the_rotated_input() -> None:
    x = torch.randn(64, 64)
    x[:, 5] *= 50
    plain, rotated = nn.Sequential(layer(64)), nn.Sequential(layer(64))
    rotate_input(rotated[0], 0)
    off = []
    for network in (plain, rotated):
        engine = PostTraining(network.eval(), trace(plain, x), [x], x)
        policy = uniform_policy(engine.layers, parse_layer_policy("activation=int4:token"))
        with torch.no_grad():
            off.append(float((engine.apply(policy)(x) - plain(x)).square().mean()))
    assert off[1] < 0.5 * off[0]


def test_rotations_are_restored_from_stored_tensors_once() -> None:
    rotated, plain, x = nn.Sequential(layer(32)), nn.Sequential(layer(32)), torch.randn(2, 32)
    expected = plain(x)
    rotate_input(rotated[0], 0)
    for _ in range(2):
        restore_rotations(plain, rotated.state_dict())
    plain.load_state_dict(rotated.state_dict())
    torch.testing.assert_close(plain(x), expected, rtol=1e-4, atol=1e-5)
