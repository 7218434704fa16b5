"""State in odd places, forked children, folders linked twice, checkpoints: each had gone wrong without a word."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.checkpoint import checkpoint

from gar_env.alignment import Alignment
from gar_env.data.image_files import walk
from gar_env.errors import AlignmentError
from gar_env.seeding import TURNS

WAYS = ("auto", "hooks", "forward", "finite_difference")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("first", ["nothing", "unset"])
def test_a_loss_that_remembers_the_last_output_is_recorded_as_in_a_plain_pass(way, first):
    network = nn.Linear(3, 1)
    x = torch.randn(5, 3)
    if first == "nothing":
        previous = None

    def loss(output):
        nonlocal previous
        try:
            gap = output if previous is None else output - previous
        except NameError:
            gap = output
        previous = output.detach()
        return gap.square().sum(1)

    tape = Alignment(network, way=way).record(x, loss)
    torch.testing.assert_close(tape.losses, network(x).detach().square().sum(1))
    torch.testing.assert_close(previous, network(x).detach())  # pyright: ignore[reportPossiblyUnboundVariable]


@dataclass(slots=True)
class Held:
    history: list
    total: torch.Tensor


class Holds(nn.Linear):
    def __init__(self):
        super().__init__(3, 1)
        self.held = Held([], torch.zeros(()))

    def forward(self, input):
        self.held.history.append(len(input))
        self.held.total += 1
        return super().forward(input)


@pytest.mark.parametrize("way", WAYS)
def test_objects_with_slots_are_as_after_a_plain_pass(way):
    network = Holds()
    Alignment(network, way=way).record(torch.randn(5, 3), lambda output: output.square().sum(1))
    assert (network.held.history, float(network.held.total)) == ([5], 1.0)


class Mixes(nn.Module):
    def __init__(self, mixes):
        super().__init__()
        self.first, self.last, self.mixes = nn.Linear(3, 4), nn.Linear(4, 1), mixes

    def inner(self, x):
        h = self.first(x).tanh()
        return h + h.roll(1, 0) if self.mixes else h

    def forward(self, x):
        return self.last(checkpoint(self.inner, x, use_reentrant=True))


@pytest.mark.parametrize("mixes", [False, True])
def test_examples_mixed_behind_a_reentrant_checkpoint_are_seen(mixes):
    network, x = Mixes(mixes), torch.randn(5, 3, requires_grad=True)

    def record():
        return Alignment(network, way="hooks").record(x, lambda output: output.square().sum(1))

    if mixes:
        with pytest.raises(AlignmentError, match="belong to several examples"):
            record()
    else:
        record()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_forked_while_another_thread_has_its_turn_goes_on():
    held, done = threading.Event(), threading.Event()

    def hold():
        with TURNS:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        with TURNS:
            os._exit(7)
    try:
        for _ in range(100):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                break
            time.sleep(0.05)
        else:
            os.kill(child, 9)
            pytest.fail("the child waits for a thread that it does not have")
        assert os.waitstatus_to_exitcode(status) == 7
    finally:
        done.set()
        thread.join()


def test_a_folder_linked_twice_is_read_twice_and_a_loop_ends(tmp_path):
    pool = tmp_path / "pool"
    pool.mkdir()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(pool / "a.png")
    root = tmp_path / "root"
    for source in ("one", "two"):
        (root / source).mkdir(parents=True)
        (root / source / "class").symlink_to(pool, target_is_directory=True)
    (root / "loop").symlink_to(root, target_is_directory=True)
    found = [file.relative_to(root).as_posix() for _, files in walk(root) for file in files]
    assert found == ["one/class/a.png", "two/class/a.png"]
