"""Rows of whole numbers, and what they come to."""

import torch

from gar_env.augment import SPACES, ActionLayout, Choices

LAYOUT = ActionLayout(SPACES["wl"], 3)


def row(*places, r):
    return [r - 1, *(number for place in places for number in place)]


def test_reading_what_was_written_gives_the_same_choices():
    torch.manual_seed(0)
    choices = Choices(
        torch.randint(1, 4, (50,)), torch.randint(19, (50, 3)), torch.rand(50, 3) < 0.5, torch.randint(31, (50, 3))
    )
    for before, after in zip(choices, LAYOUT.read(LAYOUT.write(choices)), strict=True):
        assert torch.equal(before, after)
    assert LAYOUT.write(choices).shape == (50, len(LAYOUT.nvec)) == (50, len(LAYOUT.names))
    assert LAYOUT.names[:4] == ("num_operations", "operation_1", "keep_1", "strength_1")


def test_places_beyond_the_number_and_repeated_operations_are_not_applied():
    actions = torch.tensor(
        [
            row((3, 1, 10), (4, 1, 10), (5, 1, 10), r=2),  # the third place does not count
            row((3, 1, 10), (3, 1, 20), (4, 1, 10), r=3),  # the second names the first one's operation
            row((3, 0, 10), (3, 1, 20), (4, 1, 10), r=3),  # also where the first was not kept
            row((3, 1, 10), (4, 0, 20), (3, 1, 10), r=2),  # a repetition that does not count is none
        ]
    )
    choices = LAYOUT.read(actions)
    assert choices.applied.tolist() == [
        [True, True, False],
        [True, False, True],
        [False, False, True],
        [True, False, False],
    ]
    assert choices.repeated.tolist() == [[False] * 3, [False, True, False], [False, True, False], [False] * 3]
    plan = LAYOUT.plan(actions, height=32, width=32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(plan.keep, choices.applied)
    assert len(plan.describe(1)) == 2
