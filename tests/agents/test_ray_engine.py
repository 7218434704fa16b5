"""Runs on a local Ray cluster."""

import os
import re
from pathlib import Path

import pytest
from rich.console import Console

from agents.cli.main import main
from agents.jobs.results import ResultsFile, read_rows
from agents.jobs.run import JobsFailedError, run_jobs
from agents.studies.rewards.outcome import OutcomeJob
from gar_env.errors import ConfigurationError
from some_jobs import Run

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'gar-env[ray]'")


@pytest.fixture(scope="module")
def cluster():
    root = str(Path(__file__).parents[1])
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}},
    )
    yield
    ray.shutdown()


def test_a_killed_worker_s_run_is_started_again_and_one_that_raises_is_not(cluster, tmp_path):
    jobs = [Run(1, str(tmp_path)), Run(2, str(tmp_path), kills=1), Run(3, str(tmp_path), raises=True)]
    results = ResultsFile(tmp_path / "rows.jsonl")
    with pytest.raises(JobsFailedError, match=r"1 of 3 runs failed(.|\n)*3: ValueError: of its own"):
        run_jobs(jobs, results, workers=2, console=Console(), engine="ray")
    assert sorted((row["number"], row["square"]) for row in results.rows) == [(1, 1), (2, 4)]
    assert all("seconds" in row for row in results.rows)
    starts = {number: (tmp_path / f"{number}.txt").read_text().split() for number in (1, 2, 3)}
    assert {number: len(found) for number, found in starts.items()} == {1: 1, 2: 2, 3: 1}
    assert str(os.getpid()) not in starts[1], "not in this process"
    # Again: what is there is kept.
    with pytest.raises(JobsFailedError, match="1 of 1 runs failed"):
        run_jobs(jobs, results, workers=2, console=Console(), engine="ray")
    assert len(results.rows) == 2


def test_the_benchmark_s_own_runs_are_the_same_on_ray(cluster, tmp_path):
    jobs = [OutcomeJob("noisy", signal, 0, 8, 20) for signal in ("gar", "nslr")]
    results = ResultsFile(tmp_path / "rows.jsonl")
    run_jobs(jobs, results, workers=2, console=Console(), engine="ray")
    found = {row["signal"]: row["score"] for row in results.rows}
    assert found == {job.signal: job.run(lambda: None)["score"] for job in jobs}


STUDIES = {
    "table1": "reproduce table1 --dataset digits --seeds 1 --networks fc_bn --arms gar nslr --batch-size 16 --steps 20",
    "table2": (
        "reproduce table2 --dataset synthetic_invariances --network fc --epochs 1 --batch-size 16 --subset 100 "
        "--seeds 1 --device cpu --policies flip-crop ola"
    ),
    "controllers": "reproduce controllers splits --seeds 1 --arms uniform sb3-ppo --batch-size 16 --steps 12",
    "invariances": "bench invariances --seeds 1 --arms gar random --batch-size 16 --steps 4",
}


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_is_the_same_on_ray(cluster, study, tmp_path):
    found = {}
    for engine in ("local", "ray"):
        main([*STUDIES[study].split(), "--engine", engine, "--workers", "2", "--out", str(tmp_path / engine)])
        (file,) = (tmp_path / engine).glob("*.jsonl")
        rows = [{k: v for k, v in row.items() if k != "seconds"} for row in read_rows(file)]
        found[engine] = sorted(rows, key=str)
    assert len(found["ray"]) == 2
    assert found["ray"] == found["local"]


def test_another_engine_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=re.escape("engine='slurm' is unknown. Choose one of local, ray.")):
        run_jobs([], ResultsFile(tmp_path / "rows.jsonl"), workers=1, console=Console(), engine="slurm")
