"""Tensors in memory up to a limit, in a file beyond."""

import torch

from quant_core.reconstruct.held import Held, Room


def test_what_exceeds_the_room_lies_in_a_file_and_comes_back() -> None:
    room = Room(100)
    held = Held(room)
    tensors = [torch.full((10,), float(number)) for number in range(4)]
    for tensor in tensors:
        held.add(tensor)
    assert (room.left, room.least) == (20, 20)
    assert all(torch.equal(one, other) for one, other in zip(held, tensors, strict=True))
    assert held[0].data_ptr() == tensors[0].data_ptr()
    assert held[3].data_ptr() != tensors[3].data_ptr()


def test_closing_gives_the_room_back() -> None:
    room = Room(100)
    held = Held(room)
    for _ in range(3):
        held.add(torch.zeros(10))
    held.close()
    assert room.left == 100
    assert len(held) == 0


def test_sixteen_bit_floats_come_back_from_a_file() -> None:
    held = Held(Room(0))
    held.add(torch.tensor([1.5, -2.0], dtype=torch.bfloat16))
    assert torch.equal(held[0], torch.tensor([1.5, -2.0], dtype=torch.bfloat16))
