import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from rich.console import Console

from agents.jobs.job import rows_of
from agents.jobs.provenance import fingerprint
from agents.jobs.results import ResultsFile, read_rows
from agents.jobs.run import JobsFailedError, run_jobs
from agents.measures.figures import save
from agents.measures.intervals import share_of_gain, summarise
from agents.studies.table1.figures import figure2
from agents.studies.table1.jobs import RECIPES, Table1Job, accuracy_table, auc_table, table1_jobs
from gar_env.errors import CheckpointError, ConfigurationError, UnknownNameError
from some_jobs import Run


def tiny_jobs(**options):
    return table1_jobs(
        "paper", **{"dataset": "digits", "seeds": 2, "networks": ["fc_bn"], "num_envs": 32, "steps": 20, **options}
    )


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    results = ResultsFile(tmp_path_factory.mktemp("table1") / "paper.jsonl")
    run_jobs(tiny_jobs(), results, workers=2, console=Console(quiet=True))
    return results.rows


def test_a_row_has_what_the_table_and_the_figure_need(rows):
    assert len(rows) == 8
    row = next(r for r in rows if r["arm"] == "gar" and r["seed"] == 0)
    assert 0 < row["noisy_auc"] < 1
    assert row["noisy_auc"] + 9 * row["other_auc"] == pytest.approx(9, abs=1e-4), "the paper's scale: they sum to k - 1"
    assert np.shape(row["keep"]) == (2, 10)
    assert np.shape(row["losses"]) == (2,)
    assert row["keep"][0] == [0.9] * 10
    assert {"commit", "machine", "torch", "seconds", "config"} <= set(row)


def test_runs_repeat_in_another_process(rows):
    job = next(job for job in tiny_jobs() if (job.arm, job.seed) == ("gar", 1))
    again = job.run(lambda: None)
    row = next(r for r in rows if (r["arm"], r["seed"]) == ("gar", 1))
    assert {key: again[key] for key in ("noisy_auc", "test_accuracy", "losses")} == {
        key: row[key] for key in ("noisy_auc", "test_accuracy", "losses")
    }


def test_the_tables_show_ours_beside_the_papers(rows):
    auc = auc_table(rows, "paper")
    assert [row[:3] for row in auc] == [["fc_bn", "gar", "0.61 / 0.93"], ["fc_bn", "nslr", "0.96 / 0.89"]]
    assert auc[0][6] == "2"
    accuracy = accuracy_table(rows, "paper")
    assert [row[1] for row in accuracy] == ["uniform", "nslr", "gar", "oracle"]
    assert auc.markdown().count("\n") == 3


def test_the_figure_has_a_panel_per_signal_and_one_for_losses(rows, tmp_path):
    figure = figure2(rows, "paper")
    titles = [ax.get_title() for ax in figure.axes]
    assert [title.split(":")[0] for title in titles] == [
        "(a) fc_bn, NSLR",
        "(b) fc_bn, GAR",
        "(c) fc_bn, training loss",
    ]
    assert titles[0].endswith("paper 0.96")
    assert [len(ax.get_lines()) for ax in figure.axes] == [10, 10, 4]
    assert save(figure, tmp_path / "new" / "figure.png").stat().st_size > 10_000
    with pytest.raises(ConfigurationError, match="The results hold no run of the recipe 'best'"):
        figure2(rows, "best")


def test_finished_runs_are_kept_and_only_the_rest_is_run(rows, tmp_path, monkeypatch):
    results = ResultsFile(tmp_path / "paper.jsonl")
    for row in rows[:5]:
        results.append(row)
    run_jobs(tiny_jobs(), results, workers=1, console=Console(quiet=True))
    assert results.rows[:5] == rows[:5]
    assert len(results.rows) == 8
    assert read_rows(results.path) == results.rows


def test_another_configuration_is_never_mixed_in(rows):
    jobs = tiny_jobs(num_envs=33)
    assert rows_of(rows, jobs) == []
    assert len(rows_of(rows, tiny_jobs())) == 8
    assert len({job.identity["config"] for job in tiny_jobs() + tiny_jobs(steps=21)}) == 6


def test_the_same_data_have_the_same_fingerprint_wherever_they_lie(tmp_path):
    from gar_env.data import load_dataset

    digits = load_dataset("digits")
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        np.savez(
            tmp_path / name / "digits.npz",
            x_train=digits.x_train.permute(0, 2, 3, 1), y_train=digits.y_train,
            x_test=digits.x_test.permute(0, 2, 3, 1), y_test=digits.y_test,
        )  # fmt: skip
    here, there = (
        Table1Job("paper", "fc", "gar", 0, str(tmp_path / name / "digits.npz")).identity for name in ("here", "there")
    )
    assert here == there


def test_a_half_written_last_line_is_dropped_and_a_foreign_file_refused(rows, tmp_path):
    path = tmp_path / "paper.jsonl"
    path.write_text(json.dumps(rows[0]) + "\n" + json.dumps(rows[1])[:50])
    results = ResultsFile(path)
    assert results.rows == rows[:1]
    results.append(rows[1])
    assert read_rows(path) == rows[:2]
    path.write_text("name,value\n1,2\n")
    with pytest.raises(CheckpointError, match="line 1, is no JSON"):
        read_rows(path)
    with pytest.raises(CheckpointError, match="No results file at"):
        read_rows(tmp_path / "nothing.jsonl")


def test_two_processes_never_write_to_one_file(tmp_path):
    first = ResultsFile(tmp_path / "paper.jsonl")
    with pytest.raises(CheckpointError, match=r"Another process is writing to .*paper\.jsonl"):
        ResultsFile(tmp_path / "paper.jsonl")
    first.close()
    ResultsFile(tmp_path / "paper.jsonl")


def test_a_row_is_counted_once_and_other_seeds_are_not(rows):
    assert len(rows_of([*rows, *rows], tiny_jobs())) == 8
    assert len(rows_of(rows, tiny_jobs(seeds=1))) == 4


def test_a_run_that_diverged_has_whole_curves_and_a_figure(rows, monkeypatch):
    from agents.studies.table1 import jobs as table1

    monkeypatch.setitem(table1.RECIPES["paper"].env, "step_size", 1e18)
    job = next(job for job in tiny_jobs() if job.arm == "gar")
    row = {**job.identity, **job.run(lambda: None)}
    assert row["diverged"]
    assert row["died"]
    assert (len(row["keep"]), len(row["losses"])) == (2, 2)
    json.dumps(row, allow_nan=False)
    healthy = [r for r in rows if r["arm"] == "gar"]
    figure2([*healthy, {**row, "config": healthy[0]["config"]}], "paper")


def test_a_figure_never_averages_configurations(rows):
    with pytest.raises(ConfigurationError, match="several configurations for fc_bn"):
        figure2([*rows, {**rows[0], "config": "another"}], "paper")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"seeds": 0}, ConfigurationError, "seeds=0 must be at least 1"),
        ({"networks": ["fcc"]}, UnknownNameError, "No network is called 'fcc'"),
        ({"arms": ["gra"]}, UnknownNameError, r"No reward signal is called 'gra'. Did you mean 'gar'\?"),
        ({"steps": 0}, ConfigurationError, "num_steps=0 must be at least 1"),
    ],
)
def test_an_experiment_that_cannot_be_says_why_before_any_run(options, error, message):
    with pytest.raises(error, match=message):
        tiny_jobs(**options)


def test_no_workers_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="workers=0 must be at least 1"):
        run_jobs(tiny_jobs(), ResultsFile(tmp_path / "r.jsonl"), workers=0, console=Console(quiet=True))


def test_a_worker_that_is_killed_is_replaced_and_its_run_started_again(tmp_path):
    results = ResultsFile(tmp_path / "rows.jsonl")
    run_jobs([Run(i, str(tmp_path), kills=i) for i in range(3)], results, workers=2, console=Console(quiet=True))
    assert sorted(row["square"] for row in results.rows) == [0, 1, 4]


def test_a_run_that_kills_every_worker_takes_no_other_with_it(tmp_path):
    jobs = [Run(i, str(tmp_path), kills=99 if i == 1 else 0) for i in range(5)]
    results = ResultsFile(tmp_path / "rows.jsonl")
    raising = Run(5, str(tmp_path), raises=True)
    with pytest.raises(JobsFailedError, match="2 of 6 runs failed") as raised:
        run_jobs([*jobs, raising], results, workers=2, console=Console(quiet=True))
    assert "1: its worker was killed 4 times" in str(raised.value)
    assert "5: ValueError: of its own" in str(raised.value)
    assert sorted(row["number"] for row in results.rows) == [0, 2, 3, 4]
    assert len((tmp_path / "1.txt").read_text().splitlines()) == 4


def test_a_killed_reproduction_goes_on_where_it_was(tmp_path):
    """kill -9 in the middle; the same command finishes, and keeps what was finished."""
    command = [
        sys.executable, "-m", "agents.cli", "reproduce", "table1", "--dataset", "digits", "--seeds", "4",
        "--networks", "fc_bn", "--batch-size", "32", "--steps", "40", "--workers", "1", "--out", str(tmp_path),
    ]  # fmt: skip
    path = tmp_path / "paper.jsonl"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (path.exists() and path.read_text().count("\n") >= 2):
        assert process.poll() is None, "the reproduction ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = read_rows(path)
    assert 2 <= len(before) < 16
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    after = read_rows(path)
    assert after[: len(before)] == before
    assert len(after) == 16
    assert f"{len(before)} of 16 runs are in" in finished.stdout


def test_recipes_are_known_by_name():
    assert list(RECIPES) == ["best", "best-derivative", "paper", "paper-derivative"]
    with pytest.raises(UnknownNameError, match=r"No recipe is called 'papr'. Did you mean 'paper'\?"):
        Table1Job("papr", "fc", "gar", 0, "digits").env_options  # noqa: B018


def test_summaries_match_their_definitions():
    values = np.random.default_rng(0).normal(size=10)
    summary = summarise(values)
    assert summary.mean == pytest.approx(values.mean())
    assert summary.deviation == pytest.approx(values.std(ddof=1))
    assert summary.low < summary.mean < summary.high
    assert summary.high - summary.low == pytest.approx(2 * 1.96 * values.std() / 10**0.5, rel=0.15)
    assert str(summarise([0.3])) == "0.300", "one seed has no interval"
    assert share_of_gain([0.4], [0.5], [0.6]) is None, "and gives no confidence"
    found = share_of_gain([0.4, 0.5, 0.45], [0.47, 0.58, 0.53], [0.5, 0.6, 0.55])
    assert found is not None
    share, low, high = found
    assert share == pytest.approx(0.23 / 0.3)
    assert low <= share <= high
    assert share_of_gain([0.4, 0.5], [0.5, 0.5], [0.39, 0.53]) is None, "a share of nothing"


def test_equal_results_get_an_interval_of_length_zero():
    summary = summarise([0.5, 0.5, 0.5])
    assert (summary.low, summary.high) == (0.5, 0.5)


def test_fingerprints_differ_when_anything_differs():
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert len(fingerprint({})) == 12
