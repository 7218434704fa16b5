"""Runs on a local Ray cluster."""

import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from agents.experiments.results import ResultsFile
from agents.experiments.rewards.outcome import OutcomeJob
from agents.experiments.runner import JobsFailedError, run_jobs
from gar_env.errors import ConfigurationError

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'gar-env[ray]'")


@dataclass(frozen=True)
class Run:
    """A run that leaves a mark each time it starts, and may kill its worker the first time, or raise."""

    number: int
    folder: str
    kills: bool = False
    raises: bool = False
    steps: int = 1

    @property
    def identity(self):
        return {"number": self.number, "config": "x"}

    def run(self, on_step):
        marks = Path(self.folder) / f"{self.number}.txt"
        with marks.open("a") as file:
            file.write(f"{os.getpid()}\n")
        if self.kills and len(marks.read_text().splitlines()) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.raises:
            raise ValueError("of its own")
        on_step()
        return {"square": self.number**2}


@pytest.fixture(scope="module")
def cluster():
    root = str(Path(__file__).parent)
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
    jobs = [Run(1, str(tmp_path)), Run(2, str(tmp_path), kills=True), Run(3, str(tmp_path), raises=True)]
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


def test_another_engine_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=re.escape("engine='slurm' is unknown. Choose one of local, ray.")):
        run_jobs([], ResultsFile(tmp_path / "rows.jsonl"), workers=1, console=Console(), engine="slurm")
