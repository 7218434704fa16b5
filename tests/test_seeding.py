import os
import threading
import time

import numpy as np
import pytest
import torch

from gar_env.seeding import TURNS, lend_to_global, named_generator


def test_streams_of_one_seed_differ_and_repeat():
    draws = {name: torch.rand(4, generator=named_generator(3, name)) for name in ("data", "labels", "network")}
    assert len({tuple(draw.tolist()) for draw in draws.values()}) == 3
    torch.testing.assert_close(draws["data"], torch.rand(4, generator=named_generator(3, "data")))
    assert not torch.equal(draws["data"], torch.rand(4, generator=named_generator(4, "data")))


def test_a_stream_is_the_same_in_every_process_and_version():
    golden = torch.tensor([0.021451611506051016, 0.8499848097912229, 0.7198630693311582], dtype=torch.float64)
    torch.testing.assert_close(torch.rand(3, generator=named_generator(0, "data"), dtype=torch.float64), golden)


def test_lending_advances_the_generator_and_leaves_the_global_one():
    generator, before = named_generator(0, "network"), torch.get_rng_state()
    with lend_to_global(generator):
        first = torch.rand(3)
    second = torch.empty(3)
    with pytest.raises(ZeroDivisionError), lend_to_global(generator):
        second.copy_(torch.rand(3)).div_(1 / 0)
    assert torch.equal(torch.get_rng_state(), before)
    expected = torch.rand(6, generator=named_generator(0, "network"))
    torch.testing.assert_close(torch.cat([first, second]), expected)


def test_training_leaves_the_global_generators_untouched():
    import random

    import gymnasium

    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    env = gymnasium.make_vec("GAR/DataSplit-v0", num_envs=8, num_steps=2, network="wrn-10-1", dataset="digits")
    env.reset(seed=0)
    env.step([0] * 8)
    env.step([1] * 8)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    assert random.getstate() == states[2]


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
