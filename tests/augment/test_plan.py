"""Plans: what is drawn, described and replayed."""

import re

import pytest
import torch

from gar_env.augment import SPACES, Plan, apply, to_image, to_tensor
from gar_env.errors import ConfigurationError

WL = SPACES["wl"]


def sample(n=2000, seed=0, **options):
    return Plan.sample(WL, n, height=32, width=32, generator=torch.Generator().manual_seed(seed), **options)


def of(name, strength, *, keep=True, negative=False, corner=(0, 0)):
    def column(value, dtype):
        return torch.tensor([[value]], dtype=dtype)

    return Plan(
        WL, 32, 32, column(WL.index(name), torch.int64), column(strength, torch.int64), column(keep, torch.bool),
        column(negative, torch.bool), torch.tensor([[corner]]),
    )  # fmt: skip


def test_operations_are_drawn_uniformly_without_replacement():
    plan = sample(num_operations=4)
    assert all(len(set(row)) == 4 for row in plan.operations.tolist())
    counts = torch.bincount(plan.operations.flatten(), minlength=19)
    assert counts.min() / (2000 * 4 / 19) > 0.8
    assert counts.max() / (2000 * 4 / 19) < 1.2


def test_strengths_signs_and_keeps_have_the_chances_that_were_asked_for():
    plan = sample(keep_probability=0.25)
    assert torch.bincount(plan.strengths.flatten(), minlength=31).min() > 60  # of 129 expected
    assert float(plan.negative.float().mean()) == pytest.approx(0.5, abs=0.03)
    assert float(plan.keep.float().mean()) == pytest.approx(0.25, abs=0.03)
    assert set(sample(strength=7).strengths.flatten().tolist()) == {7}
    assert sample(num_operations=19).places == 19


def test_a_seed_repeats_a_plan():
    first, again, other = sample(seed=3), sample(seed=3), sample(seed=4)
    for name in ("operations", "strengths", "keep", "negative", "corners"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.operations, other.operations)


def test_squares_fall_anywhere_and_are_cut_off_at_the_border():
    plan = Plan.sample(
        WL.subset(["cutout"]), 4000, height=32, width=32, generator=torch.Generator().manual_seed(0), num_operations=1,
        strength=30,
    )  # fmt: skip
    painted = apply(plan, torch.full((4000, 3, 32, 32), 255, dtype=torch.uint8)) == 0
    share = painted[:, 0].float().mean(0)
    assert share.min() > 0.05  # every pixel is covered sometimes, those in the middle most
    assert share[16, 16] > 2 * share[0, 0]
    assert plan.corners.min() == 0


def test_a_plan_says_what_it_does():
    assert of("rotate", 10, negative=True).describe(0) == ["rotate -45 degrees"]
    assert of("cutout", 12, corner=(3, 7)).describe(0) == ["cutout 7 pixels at (3, 7)"]
    assert of("color", 30).describe(0) == ["color 2 x"]
    assert of("color", 30, keep=False).describe(0) == []


def test_applied_leaves_out_what_was_dropped_and_what_changes_nothing():
    assert of("rotate", 1).applied.tolist() == [[True]]
    assert of("rotate", 0).applied.tolist() == [[False]]
    assert of("rotate", 1, keep=False).applied.tolist() == [[False]]
    assert of("identity", 9).applied.tolist() == [[False]]


def test_pillow_replays_one_image_of_a_batch():
    plan = sample(n=5, num_operations=4)
    images = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8)
    done = apply(plan, images)
    for i in range(5):
        assert torch.equal(to_tensor(plan.to_pillow(i)(to_image(images[i]))), done[i])


def test_a_plan_moves_to_another_device():
    assert sample(n=3).to("meta").device.type == "meta"


PLAN = sample(n=4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sample(n=0), "n=0 must be a whole number, at least 1"),
        (lambda: sample(num_operations=0), "num_operations=0 in 1..19, the size of the space 'wl'"),
        (lambda: sample(num_operations=2.5), "num_operations=2.5 in 1..19"),
        (lambda: sample(num_operations=20), "num_operations=20 in 1..19"),
        (lambda: sample(strength=31), "strength=31 must be a whole number in 0..30"),
        (lambda: sample(keep_probability=1.5), "keep_probability=1.5 must be in [0, 1]"),
        (lambda: of("rotate", 31), "strengths go from 31 to 31, but there are 31: 0..30"),
        (lambda: of("rotate", 3, corner=(-1, 0)), "corners (x) go from -1 to -1, but the image has 32: 0..31"),
        (lambda: of("cutout", 3, corner=(0, 40)), "corners (y) go from 40 to 40, but the image has 32: 0..31"),
        (lambda: PLAN.describe(4), "There is no image 4; the plan is for 4: 0..3"),
        (lambda: PLAN.to_pillow(-5), "There is no image -5"),
        (
            lambda: PLAN.to_pillow(0)(to_image(torch.zeros(3, 8, 9, dtype=torch.uint8))),
            "The plan is for images of 32x32 pixels (height x width); found 8x9",
        ),
        (
            lambda: Plan(WL, 32, 32, PLAN.operations, PLAN.strengths, PLAN.keep[:3], PLAN.negative, PLAN.corners),
            "keep must be torch.bool [4, 2] on cpu; found torch.bool [3, 2]",
        ),
        (
            lambda: Plan(WL, 32, 32, PLAN.operations + 18, PLAN.strengths, PLAN.keep, PLAN.negative, PLAN.corners),
            "but the space 'wl' has 19: 0..18",
        ),
        (
            lambda: Plan(WL, 0, 32, PLAN.operations, PLAN.strengths, PLAN.keep, PLAN.negative, PLAN.corners),
            "height=0 and width=32 must be at least 1 pixel",
        ),
        (
            lambda: Plan(WL, 32, 32, PLAN.operations[:0], PLAN.strengths, PLAN.keep, PLAN.negative, PLAN.corners),
            "operations must be [images, places], none of them 0; found [0, 2]",
        ),
        (lambda: to_tensor(to_image(torch.zeros(3, 4, 4, dtype=torch.uint8)).convert("RGBA")), "has mode 'RGBA'"),
    ],
)
def test_bad_input_is_refused_with_what_was_found(call, message):
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        call()
