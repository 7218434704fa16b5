"""Table 2: the same training for every policy, kept when interrupted."""

import re

import pytest

from agents.cli import main
from agents.experiments import table2
from agents.experiments.results import read_rows
from agents.experiments.table2 import ARMS, table2_jobs, table2_table
from gar_env.errors import ConfigurationError, UnknownNameError

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
    assert "2 runs of 8 SGD steps: 2 policies, 1 seeds, fc on cpu." in printed
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
        row = cut.run(lambda: None)
    assert row["resumed"]
    assert not expected["resumed"]
    assert row["test_accuracy"] == expected["test_accuracy"]
    assert row["applied_rotate"] == expected["applied_rotate"]


def test_configurations_never_mix(tmp_path):
    (one,), (other,) = jobs(tmp_path), jobs(tmp_path, space="ra")
    assert one.identity["config"] != other.identity["config"]
    assert one.folder != other.folder
    (on_gpu,) = jobs(tmp_path, device="cuda")
    assert on_gpu.identity == one.identity, "the device is not part of what is run"


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

    rows = [row("flip-crop", 0, 0.5), row("flip-crop", 1, 0.7), row("ola", 0, 0.6), row("ola", 1, None)]
    flip_crop, ola = table2_table(rows)
    assert flip_crop[:3] == ["flip-crop", "0.6000 [0.5000, 0.7000]", ""]
    assert ola[2] == "+0.1000 [+0.1000, +0.1000]"
    assert ola[-2:] == ["2", "1"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"policies": ["olla"]}, ConfigurationError, "policies='olla' is unknown. Did you mean 'ola'?"),
        ({"epochs": 0}, ConfigurationError, "epochs=0 and batch_size=16 must be at least 1"),
        ({"seeds": 0}, ConfigurationError, "seeds=0"),
        ({"space": "wide"}, UnknownNameError, "No search space is called 'wide'"),
        ({"step_size": -1.0}, ConfigurationError, "step_size=-1.0 must be above 0"),
    ],
    ids=str,
)
def test_wrong_options_are_refused_before_anything_runs(tmp_path, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        jobs(tmp_path, **options)[0].run(lambda: None)


@pytest.mark.slow
def test_the_papers_command_runs_through_on_a_cpu(tmp_path, capsys, cifar10_path):
    """Three epochs of 5,000 examples with WRN-16-2: some minutes."""
    options = ["--network", "wrn-16-2", "--epochs", "3", "--subset", "4000", "--seeds", "1", "--out", str(tmp_path)]
    main(["reproduce", "table2", "--dataset", cifar10_path, *options, "--policies", "flip-crop", "ola"])
    assert "About" in capsys.readouterr().out
    rows = {row["policy"]: row for row in read_rows(tmp_path / "table2.jsonl")}
    assert rows["flip-crop"]["test_accuracy"] > 0.15
    assert rows["ola"]["test_accuracy"] > 0.15
