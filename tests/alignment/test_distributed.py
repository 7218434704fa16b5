"""Several processes: global direction, local rewards, one policy."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from agents import InvertedSoftmax, Reinforce
from gar_env.errors import ConfigurationError

WORKER = Path(__file__).parent / "distributed_worker.py"


def run(*command):
    finished = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr


def test_rewards_and_policy_of_two_processes_equal_those_of_one_on_the_union_batch(tmp_path):
    run(WORKER, tmp_path / "alone")
    run("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", WORKER, tmp_path / "shared")
    alone = torch.load(tmp_path / "alone.0")
    first, second = torch.load(tmp_path / "shared.0"), torch.load(tmp_path / "shared.1")
    for (rewards, logits), (rewards_0, logits_0), (rewards_1, logits_1) in zip(alone, first, second, strict=True):
        torch.testing.assert_close(torch.cat([rewards_0, rewards_1], 1), rewards, rtol=1e-4, atol=1e-4)
        assert torch.equal(logits_0, logits_1)
        torch.testing.assert_close(logits_0, logits, rtol=1e-4, atol=1e-5)
        assert logits.abs().max() > 0.1


def test_a_distributed_agent_needs_a_process_group():
    with pytest.raises(ConfigurationError, match="torchrun"):
        Reinforce(InvertedSoftmax(3), distributed=True)
