"""Table 2: the same training for every policy, kept when interrupted."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agents.cli import main
from agents.jobs.results import read_rows
from agents.studies.table2 import jobs as table2
from agents.studies.table2.jobs import ARMS, table2_jobs, table2_table
from gar_env.augment import SPACES
from gar_env.errors import ConfigurationError, UnknownNameError

ROOT = Path(__file__).parents[2]
SMALL = {
    "seeds": 1, "dataset": "synthetic_invariances", "space": "wl", "network": "fc", "epochs": 1, "batch_size": 16,
    "step_size": 0.05, "subset": 100,
}  # fmt: skip


def jobs(out, policies=("ola",), **options):
    return table2_jobs(policies, out=out, **{**SMALL, **options})


def test_every_policy_takes_as_many_sgd_steps(tmp_path):
    for job in jobs(tmp_path, list(ARMS)):
        assert job.sgd_steps == 8  # 100 examples in batches of 16, rounded up to pairs
        assert job.steps == (4 if job.policy.startswith("ola") else 8)


def test_the_command_trains_resumes_and_prints_a_table(tmp_path, capsys):
    options = [
        "--dataset", "synthetic_invariances", "--network", "fc", "--epochs", "1", "--batch-size", "16",
        "--subset", "100", "--seeds", "1", "--workers", "1", "--device", "cpu", "--out", str(tmp_path), "--markdown",
    ]  # fmt: skip
    main(["reproduce", "table2", *options, "--policies", "flip-crop", "ola"])
    printed = capsys.readouterr().out
    assert "2 runs, 12 steps in all: 2 policies, 1 seeds, fc on cpu." in printed
    assert "| flip-crop |" in printed
    main(["reproduce", "table2", *options, "--policies", *ARMS])
    printed = capsys.readouterr().out
    assert "2 of 8 runs are in" in printed
    for policy in ARMS:
        assert f"| {policy} |" in printed
    rows = read_rows(tmp_path / "table2.jsonl")
    assert {row["sgd_steps"] for row in rows} == {8}
    ola = next(job for job in jobs(tmp_path, step_size=0.1) if job.policy == "ola")
    assert (ola.folder / "policy.npz").exists()


def test_a_run_that_was_cut_off_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    (whole,), (cut,) = jobs(tmp_path / "whole"), jobs(tmp_path / "cut")
    expected = whole.run(lambda: None)

    class Cut(BaseException):
        pass

    def cut_off():
        raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(table2, "CHECKPOINTS", 4)
        patch.setattr(table2, "FEWEST_STEPS_BETWEEN", 1)
        steps = iter([lambda: None, lambda: None, cut_off])
        with pytest.raises(Cut):
            cut.run(lambda: next(steps)())
        counted = []
        renamed = tmp_path / "renamed.json"
        renamed.write_text(SPACES["wl"].to_json())
        (cut,) = jobs(tmp_path / "cut", space=str(renamed))  # the same content by another name
        row = cut.run(lambda: counted.append(1))
    assert len(counted) == cut.steps, "steps before the resume are told at once"
    assert row["resumed"]
    assert not expected["resumed"]
    assert row["test_accuracy"] == expected["test_accuracy"]
    assert row["applied_rotate"] == expected["applied_rotate"]


def test_another_content_of_a_space_file_is_another_configuration(tmp_path):
    path, identities = tmp_path / "mine.json", set()
    for names in (["rotate", "color"], ["rotate", "blur"]):
        path.write_text(SPACES["wl"].subset(names, name="mine").to_json())
        (job,) = jobs(tmp_path, space=str(path))
        identities.add(job.identity["config"])
    assert len(identities) == 2


def test_configurations_never_mix(tmp_path):
    (one,), (other,) = jobs(tmp_path), jobs(tmp_path, space="ra")
    assert one.identity["config"] != other.identity["config"]
    assert one.folder != other.folder
    (on_gpu,) = jobs(tmp_path, device="cuda")
    assert on_gpu.identity == one.identity, "the device is not part of what is run"
    assert on_gpu.folder != one.folder, "but a checkpoint goes on where it was made"


def test_rand_augment_has_its_papers_numbers_unless_told_otherwise(tmp_path):
    (job,) = jobs(tmp_path, ["rand-augment"], dataset="digits")
    assert job.agent_options == {"n": 3, "m": 5}
    (job,) = jobs(tmp_path, ["rand-augment"])  # four classes
    assert job.agent_options == {"n": 2, "m": 14}
    (job,) = jobs(tmp_path, ["rand-augment"], rand_augment=(1, 30))
    assert job.agent_options == {"n": 1, "m": 30}


def test_the_table_compares_seed_by_seed_and_counts_what_diverged():
    def row(policy, seed, accuracy):
        return {"policy": policy, "seed": seed, "test_accuracy": accuracy, "operations": 1.0, "seconds": 60.0}

    plain = "flip-crop-cutout"
    rows = [row(plain, 0, 0.5), row(plain, 1, 0.7), row("ola", 0, 0.6), row("ola", 1, None)]
    unaugmented, ola = table2_table(rows)
    assert unaugmented[:3] == [plain, "0.6000 [0.5000, 0.7000]", ""]
    assert ola[2] == "+0.1000", "one pair of seeds"
    assert ola[-2:] == ["2", "1"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"policies": ["olla"]}, ConfigurationError, "policies='olla' is unknown. Did you mean 'ola'?"),
        ({"epochs": 0}, ConfigurationError, "epochs=0 and batch_size=16 must be at least 1"),
        ({"seeds": 0}, ConfigurationError, "seeds=0"),
        ({"space": "wide"}, UnknownNameError, "No search space is called 'wide'"),
        ({"step_size": -1.0}, ConfigurationError, "step_size=-1.0 must be above 0"),
        ({"policies": []}, ConfigurationError, "There are no policies. Name some of none, flip-crop"),
        ({"subset": 10**7}, ConfigurationError, "subset=10000000 is more than synthetic_invariances has"),
        ({"subset": 8}, ConfigurationError, "A batch of 16 examples is larger than the 8 that are left"),
        ({"network": "wrn-99-1"}, ConfigurationError, "wrn-99-1: the depth must be 6 b + 4"),
        ({"policies": ["rand-augment"], "rand_augment": (9, 5)}, ConfigurationError, "num_operations=9, but the"),
        ({"policies": ["rand-augment"], "rand_augment": (2, 99)}, ConfigurationError, "strength=99 must be"),
    ],
    ids=str,
)
def test_wrong_options_are_refused_before_anything_runs(tmp_path, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        jobs(tmp_path, **options)


@pytest.mark.slow
def test_the_papers_command_runs_through_on_a_cpu(tmp_path, capsys, larger_cifar10_path):
    """Three epochs of 5,000 examples with WRN-16-2: some minutes."""
    options = ["--network", "wrn-16-2", "--epochs", "3", "--subset", "5000", "--seeds", "1", "--out", str(tmp_path)]
    main(["reproduce", "table2", "--dataset", larger_cifar10_path, *options, "--policies", "flip-crop", "ola"])
    rows = {row["policy"]: row for row in read_rows(tmp_path / "table2.jsonl")}
    assert rows["flip-crop"]["test_accuracy"] > 0.15
    assert rows["ola"]["test_accuracy"] > 0.15


COMMAND = [
    sys.executable, "-m", "agents.cli", "reproduce", "table2", "--dataset", "synthetic_invariances", "--network", "fc",
    "--epochs", "400", "--batch-size", "16", "--subset", "400", "--seeds", "2", "--policies", "none", "ola",
]  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_stopping_saves_what_runs_starts_nothing_and_leaves_no_process(tmp_path, number):
    command = [*COMMAND, "--workers", "1", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    assert wait_for(lambda: list(tmp_path.glob("none-0-*/checkpoint.gar")))
    os.kill(process.pid, number)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Stopped. Finished runs are in" in printed
    assert [path.name.split("-")[0] for path in tmp_path.glob("*-?-*")] == ["none"], "no other run was started"
    assert wait_for(lambda: not workers_of(tmp_path))


def test_workers_end_when_their_parent_is_killed(tmp_path):
    command = [*COMMAND, "--workers", "2", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    assert wait_for(lambda: len(list(tmp_path.glob("*/checkpoint.gar"))) == 2)
    workers = workers_of(tmp_path)
    assert len(workers) == 2
    process.kill()
    process.wait()
    assert wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))


def workers_of(folder):
    """Processes that hold a run's lock file open."""
    found = []
    for path in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if path.resolve().name == "run.lock" and folder in path.resolve().parents:
                found.append(path.parts[2])
    return sorted(set(found))


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.2)
    return False
