"""The data set with a known answer has the answer that it says."""

import pytest
import torch

from gar_env.augment import SPACES, Plan, apply
from gar_env.data import load_dataset
from gar_env.data.arrows import DIRECTIONS, SPREAD, draw_arrows, share_of_lies
from gar_env.errors import ConfigurationError


def generator(seed=8):
    return torch.Generator().manual_seed(seed)


def masks(images):
    """1 where a pixel is far from the ground's colour, that of the border."""
    pixels = images.float()
    ground = torch.cat([pixels[:, :, 0], pixels[:, :, -1]], 2).median(2).values
    return (pixels - ground[:, :, None, None]).abs().sum(1) > 100


def read(image):
    """The class of an arrow without knowing how it was drawn: its long axis, and its head is heavier than its tail."""
    y, x = image.nonzero().double().unbind(1)
    points = torch.stack([x - x.mean(), y.mean() - y])  # y upwards, around the centre of mass
    axis = torch.linalg.eigh(points @ points.T).eigenvectors[:, 1]
    along = axis @ points
    axis = axis if along.max() < -along.min() else -axis  # the tail is farther from the centre of mass
    return quadrant(*axis)


def quadrant(x, y):
    return {(True, True): 0, (False, True): 1, (False, False): 2, (True, False): 3}[bool(x > 0), bool(y > 0)]


def dots(x, y, size):
    """White spots of 3x3 pixels on black."""
    images = torch.zeros(len(x), 1, size, size, dtype=torch.uint8)
    for i, (column, row) in enumerate(zip(x.round().long(), y.round().long(), strict=True)):
        images[i, 0, row - 1 : row + 2, column - 1 : column + 2] = 255
    return images


def places(images):
    centres = [image[0].nonzero().double().mean(0) for image in images]
    return torch.stack(centres).unbind(1)  # rows, columns


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


LYING = [("flip_lr", 0), ("flip_ud", 0), *(("rotate", k) for k in (3, 6, 8, 10, 12, 15, 20, 30))]
LYING += [(name, k) for name in ("shear_x", "shear_y") for k in (10, 20, 30)]


@pytest.mark.parametrize(("name", "strength"), LYING)
def test_shares_of_lies_are_those_of_the_operations(name, strength):
    """Where an operation takes the head and the tail of an arrow, each drawn as a spot in an image of its own."""
    n, size, half, wl = 200, 240, 30, SPACES["wl"]
    labels = torch.arange(4).repeat_interleave(n // 4)
    angles = torch.deg2rad(45 + 90 * labels + SPREAD * (2 * torch.rand(n, generator=generator()) - 1))
    # Where no operation pushes them over the border.
    x, y = {"shear_x": (120, 40), "shear_y": (40, 120)}.get(name, (120, 120))
    ends = [dots(x + half * sign * angles.cos(), y - half * sign * angles.sin(), size) for sign in (1, -1)]
    number, on = torch.full((n, 1), wl.index(name)), torch.ones(n, 1, dtype=torch.bool)
    negative, corners = torch.rand(n, 1, generator=generator(9)) < 0.5, torch.zeros(n, 1, 2, dtype=torch.int64)
    plan = Plan(wl, size, size, number, torch.full((n, 1), strength), on, negative, corners)
    (head_y, head_x), (tail_y, tail_x) = (places(apply(plan, end)) for end in ends)
    seen = torch.tensor([quadrant(*d) for d in zip(head_x - tail_x, tail_y - head_y, strict=True)])
    expected = share_of_lies(name, wl.value(name, strength))
    assert float((seen != labels).float().mean()) == pytest.approx(expected, abs=0.08)


def test_colours_and_places_do_not_lie():
    for name in set(SPACES["wl"].names) - {"flip_lr", "flip_ud", "rotate", "shear_x", "shear_y"}:
        assert share_of_lies(name, 2) == 0
    with pytest.raises(ConfigurationError, match="Whether 'warp' turns arrows into others is not known"):
        share_of_lies("warp", 1)


def test_the_data_set_is_the_same_every_time_and_balanced():
    data = load_dataset("synthetic_invariances")
    assert data.image_shape == (3, 32, 32)
    assert data.classes == DIRECTIONS
    assert not data.mirrored_is_same
    assert torch.bincount(data.y_train).min() > 400
    again = draw_arrows(data.y_train[:1], torch.Generator().manual_seed(0))
    assert again.shape == (1, 3, 32, 32)
    assert int(data.x_train.sum()) == int(load_dataset("synthetic_invariances").x_train.sum())
