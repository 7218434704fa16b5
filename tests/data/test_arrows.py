"""The data set with a known answer has the answer that it says."""

import pytest
import torch

from gar_env.augment import SPACES
from gar_env.data import load_dataset
from gar_env.data.arrows import DIRECTIONS, draw_arrows, lies


def masks(images):
    """1 where a pixel is far from the ground's colour, that of the border."""
    pixels = images.float()
    ground = torch.cat([pixels[:, :, 0], pixels[:, :, -1]], 2).median(2).values
    return (pixels - ground[:, :, None, None]).abs().sum(1) > 100


def read(image):
    """The class of an arrow without knowing how it was drawn: its head is heavier than its tail."""
    rows, columns = image.nonzero().double().unbind(1)
    right = columns.mean() > (columns.min() + columns.max()) / 2
    up = rows.mean() < (rows.min() + rows.max()) / 2
    return {(True, True): 0, (False, True): 1, (False, False): 2, (True, False): 3}[bool(right), bool(up)]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda x: x, [0, 1, 2, 3]),
        (lambda x: x.flip(3), [1, 0, 3, 2]),  # left-right
        (lambda x: x.flip(2), [3, 2, 1, 0]),  # up-down
        (lambda x: x.rot90(1, (2, 3)), [1, 2, 3, 0]),
        (lambda x: 255 - x, [0, 1, 2, 3]),
    ],
    ids=["as it is", "flip_lr", "flip_ud", "rotate 90", "invert"],
)
def test_flips_and_rotations_turn_every_class_into_another_and_colours_do_not(change, expected):
    labels = torch.arange(4).repeat_interleave(100)
    images = change(draw_arrows(labels, torch.Generator().manual_seed(8)))
    seen = torch.tensor([read(mask) for mask in masks(images)])
    assert (seen == torch.tensor(expected)[labels]).float().mean() > 0.95


def test_lies_are_flips_and_large_rotations():
    wl = SPACES["wl"]
    found = {name: [k for k in range(31) if lies(name, wl.value(name, k))] for name in wl.names}
    assert {name for name, strengths in found.items() if strengths} == {"rotate", "flip_lr", "flip_ud"}
    assert found["rotate"] == list(range(11, 31))


def test_the_data_set_is_the_same_every_time_and_balanced():
    data = load_dataset("synthetic_invariances")
    assert data.image_shape == (3, 32, 32)
    assert data.classes == DIRECTIONS
    assert not data.mirrored_is_same
    assert torch.bincount(data.y_train).min() > 400
    again = draw_arrows(data.y_train[:1], torch.Generator().manual_seed(0))
    assert again.shape == (1, 3, 32, 32)
    assert int(data.x_train.sum()) == int(load_dataset("synthetic_invariances").x_train.sum())
