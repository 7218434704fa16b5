"""Processes that die, hang or belong to somebody else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PEERS = """
import os, sys, time, torch
import torch.distributed as dist
from datetime import timedelta
from types import SimpleNamespace
from agents import InvertedSoftmax, Reinforce

fault, rank = sys.argv[1], int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=2)
agent = Reinforce(InvertedSoftmax(4), distributed=True, timeout=3.0)
agent.begin(SimpleNamespace(num_envs=8, unwrapped=SimpleNamespace(), single_action_space=agent.policy.action_space))
for step in range(4):
    agent.act(None)
    rewards = torch.randn(8)
    if step == 2 and rank == 1:
        if fault == "dies":
            os._exit(7)
        if fault == "hangs":
            time.sleep(12)
            os._exit(8)
        if fault == "nan":
            rewards[3] = torch.nan
    agent.learn(rewards, False, {})
print("finished", flush=True)
"""


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("none", "finished"),
        ("nan", "RewardError: 1 of 16 rewards are NaN or infinite, counted over all processes"),
        ("hangs", "DistributedError: Process 0 of 2 waited for the others"),
        ("dies", "DistributedError: Process 0 of 2 waited for the others"),
    ],
)
def test_a_peer_that_dies_hangs_or_is_paid_nan_ends_the_others_with_one_error(tmp_path, fault, said):
    code = tmp_path / "peer.py"
    code.write_text(PEERS)
    start = time.monotonic()
    peers = [
        subprocess.Popen(
            [sys.executable, str(code), fault, str(rank), str(tmp_path / "meeting")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [peer.communicate(timeout=120)[0] for peer in peers]
    assert said in outputs[0]
    if fault == "nan":
        assert said in outputs[1], "both say the same"
    assert time.monotonic() - start < 60


def orphans(mark: str) -> list[int]:
    """Processes whose environment has the mark."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if mark.encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


@pytest.mark.parametrize("after", [4.0, 5.5, 8.0])
def test_no_worker_outlives_a_parent_that_was_killed(tmp_path, after):
    mark = f"GAR_ENV_MARK={tmp_path.name}"
    options = ["--dataset", "digits", "--seeds", "2", "--batch-size", "64", "--steps", "4000", "--workers", "2"]
    parent = subprocess.Popen(
        [sys.executable, "-m", "agents.cli", "reproduce", "table1", *options, "--out", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "GAR_ENV_MARK": tmp_path.name},
    )
    time.sleep(after)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 60
    while orphans(mark) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not orphans(mark)


def test_a_foreign_package_called_agents_is_named_in_one_sentence(tmp_path):
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "__init__.py").write_text("class Agent: ...\n")
    found = subprocess.run(
        [sys.executable, "-c", "from gar_env.command import main; main()"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        check=False,
    )
    assert found.returncode == 2
    assert len(found.stderr.strip().splitlines()) == 1
    assert "is another project's, not gar-env's" in found.stderr
    assert "Install gar-env in an environment of its own" in found.stderr
