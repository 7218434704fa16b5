import gymnasium
import numpy as np
import pytest
import torch

import gar_env  # noqa: F401 - registers the environments
from rollouts import N


@pytest.mark.parametrize("name", ["GAR/DataSplit-v0", "GAR/DataWeight-v0"])
@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_agents_may_step_without_gradients(name, off):
    """TorchRL's collectors do; the network inside has to train all the same."""
    found = []
    for context in (torch.enable_grad, off):
        with context():
            env = gymnasium.make_vec(name, num_envs=N, num_steps=3)
            env.reset(seed=0)
            found.append(np.stack([env.step(np.ones(N, int))[1] for _ in range(3)]))
    assert np.array_equal(*found)
    assert (found[0] != 0).any()
