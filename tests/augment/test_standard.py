"""Crop, flip and Cutout."""

import pytest
import torch
import torch.nn.functional as F

from gar_env.augment import StandardAugmentation
from gar_env.errors import ConfigurationError


def generator():
    return torch.Generator().manual_seed(0)


def test_every_crop_and_mirror_image_comes_up_and_nothing_else():
    image = torch.arange(1, 13, dtype=torch.uint8).view(1, 1, 3, 4)
    padded = F.pad(image, (1, 1, 1, 1))
    possible = {
        tuple(crop.flatten().tolist())
        for top in range(3)
        for left in range(3)
        for crop in (padded[..., top : top + 3, left : left + 4], padded[..., top : top + 3, left : left + 4].flip(3))
    }
    done = StandardAugmentation(1, True, 0).crop_and_flip(image.expand(600, 1, 3, 4), generator())
    assert {tuple(crop.flatten().tolist()) for crop in done} == possible
    only_crops = StandardAugmentation(1, False, 0).crop_and_flip(image.expand(600, 1, 3, 4), generator())
    assert len({tuple(crop.flatten().tolist()) for crop in only_crops}) == 9


def test_cutout_sets_one_square_to_zero_in_all_channels():
    inputs = torch.ones(400, 3, 9, 12)
    done = StandardAugmentation(0, False, 4).cut_out(inputs, generator())
    assert torch.equal(inputs, torch.ones_like(inputs))
    holes = done[:, 0] == 0
    assert torch.equal(done[:, 0], done[:, 2])
    sizes = holes.flatten(1).sum(1)
    assert sizes.max() == 16
    assert sizes.min() == 4  # a corner is left of a square that is centred in a corner
    assert (holes.any(0)).all()


def test_nothing_is_done_where_nothing_is_asked_for():
    images = torch.ones(2, 3, 4, 4, dtype=torch.uint8)
    nothing = StandardAugmentation(0, False, 0)
    assert nothing.crop_and_flip(images, generator()) is images
    assert nothing.cut_out(images.float(), generator()).equal(images.float())


@pytest.mark.parametrize("name", ["crop_padding", "cutout"])
def test_negative_sizes_are_refused(name):
    with pytest.raises(ConfigurationError, match=f"{name}=-1 must not be negative"):
        StandardAugmentation(**{"crop_padding": 0, "flip": False, "cutout": 0, name: -1})
