"""Tables of the reward benchmark, from its rows alone."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from agents.experiments.aggregates import Estimate, interquartile_mean, probability_of_improvement
from agents.experiments.results import Row
from agents.experiments.rewards.fidelity import DRAWS
from agents.experiments.rewards.outcome import BASELINES, ORACLE, UNIFORM
from agents.experiments.rewards.signals import LARGEST_EXACT
from agents.experiments.rewards.tasks import ENVIRONMENTS
from agents.experiments.statistics import summarise
from agents.experiments.tables import Table

CHANCE = "random"


def all_tables(rows: Sequence[Row]) -> dict[str, Table]:
    """Every table that there are rows for, by file name."""
    tables = {
        "summary": summary_table(rows),
        "scores": task_table(rows, "score", "Score per task (0: uniform draws, 1: the oracle's)"),
        "accuracy": task_table(rows, "test_accuracy", "Test accuracy per task", baselines=True),
        "labels": labels_table(rows),
        "fidelity": fidelity_table(rows),
        "cost": cost_table(rows),
    }
    return {name: table for name, table in tables.items() if table}


def signals_of(rows: Sequence[Row]) -> list[str]:
    """Every signal that has rows, best score first, then in alphabetical order."""
    named = {row["signal"] for row in rows} - set(BASELINES)
    best = {signal: _score(comparable(rows), signal) for signal in named}
    return sorted(named, key=lambda signal: (-(found.value if (found := best[signal]) else -99.0), signal))


def strata(rows: Sequence[Row], signal: str, *, like: str | None = None) -> list[list[float]]:
    """Scores of a signal, one list per task and batch size that there are runs of.

    Args:
        rows: Of all signals.
        signal: Whose.
        like: Only tasks and batch sizes that this other signal has too.
    """
    cells: dict[tuple[str, int], list[float]] = {}
    others = {(row["task"], row["batch_size"]) for row in _outcomes(rows) if row["signal"] == like}
    for row in _outcomes(rows):
        key = row["task"], row["batch_size"]
        if row["signal"] == signal and (like is None or key in others):
            cells.setdefault(key, []).append(row["score"])
    return [cells[key] for key in sorted(cells)]


def comparable(rows: Sequence[Row]) -> list[Row]:
    """Outcomes at the batch sizes that every signal was run at; all outcomes where there is no such size."""
    sizes = [{row["batch_size"] for row in _outcomes(rows) if row["signal"] == signal} for signal in _names(rows)]
    common = set.intersection(*sizes) if sizes else set()
    return [row for row in _outcomes(rows) if not common or row["batch_size"] in common]


def summary_table(rows: Sequence[Row]) -> Table:
    """One line per signal: outcome, fidelity and cost."""
    exact, large = _sizes(rows)
    outcomes = comparable(rows)
    sizes = ", ".join(str(size) for size in sorted({row["batch_size"] for row in outcomes}))
    costs = [row for row in rows if row["measure"] == "cost"][:1]
    measured = f", {costs[0]['network']}, n = {costs[0]['batch_size']}" if costs else ""
    table = Table(
        "Which signal is worth its cost? Interquartile means over tasks and seeds, 95 % intervals",
        [
            "signal",
            f"score, n = {sizes}",
            "worst task",
            "better than random",
            "better than gar",
            f"rank correlation, n = {exact}",
            f"cosine, n = {large}",
            f"signal to noise, n = {large}",
            f"time{measured}",
            "memory",
        ],
    )
    for signal in signals_of(rows):
        score, costs = _score(outcomes, signal), _of(rows, "cost", signal)
        ranks = [r["rank_correlation"] for r in _of(rows, "fidelity", signal) if r["batch_size"] == exact]
        fine = [r for r in _of(rows, "fidelity", signal) if r["batch_size"] == large]
        table.append(
            [
                signal,
                str(score) if score else "",
                worst_task(outcomes, signal),
                *(_improvement(outcomes, signal, other) for other in (CHANCE, "gar")),
                _mean(ranks),
                _mean([r["cosine"] for r in fine]),
                _mean([r["signal_to_noise"] for r in fine], ".2f"),
                *(_cost_cells(costs[0]) if costs else ("", "")),
            ]
        )
    return table


def task_table(rows: Sequence[Row], column: str, title: str, *, baselines: bool = False) -> Table:
    """One line per signal and batch size, one column per task: mean over seeds and 95 % interval."""
    tasks = [task for task in ENVIRONMENTS if any(row["task"] == task for row in _outcomes(rows))]
    scores = column == "score"
    auc = ["noisy split's AUC"] if scores and "noisy" in tasks else []
    table = Table(title, ["signal", "n", *(["all tasks"] if scores else []), *tasks, *auc, "seeds"])
    arms = [*signals_of(_outcomes(rows)), *(BASELINES if baselines else ())]
    for size in sorted({row["batch_size"] for row in _outcomes(rows)}):
        for arm in arms:
            own = [row for row in _outcomes(rows) if row["signal"] == arm and row["batch_size"] == size]
            if own:
                cells = [_mean([row[column] for row in own if row["task"] == task]) for task in tasks]
                cells += [_mean([row["auc"] for row in own if row["task"] == "noisy"]) for _ in auc]
                fewest = min(sum(row["task"] == task for row in own) for task in {row["task"] for row in own})
                table.append([arm, str(size), *([str(_score(own, arm))] if scores else []), *cells, str(fewest)])
    return table


def labels_table(rows: Sequence[Row]) -> Table:
    """Precision and recall of dropping wrong labels in the last quarter of training."""
    table = Table("Wrong labels, last quarter of training", ["signal", "n", "precision", "recall", "clean dropped"])
    own = [row for row in _outcomes(rows) if row["task"] == "labels"]
    for size in sorted({row["batch_size"] for row in own}):
        for arm in [*signals_of(own), UNIFORM, ORACLE]:
            cells = [row for row in own if row["signal"] == arm and row["batch_size"] == size]
            columns = ("precision_late", "recall_late", "false_alarms_late")
            if cells:
                table.append([arm, str(size), *(_mean([row[column] for row in cells]) for column in columns)])
    return table


def fidelity_table(rows: Sequence[Row]) -> Table:
    """Cosines with the exact meta-gradient as batches grow: theorem 1, for every signal."""
    own = [row for row in rows if row["measure"] == "fidelity"]
    sizes = sorted({row["batch_size"] for row in own})
    table = Table(
        f"Cosine of a step's policy gradient with the exact meta-gradient (in brackets: of the mean of {DRAWS} draws)",
        ["signal", *(f"n = {size}" for size in sizes), f"clean loss, n = {max(sizes, default=0)}"],
    )
    for signal in signals_of(rows):
        line, clean = [signal], ""
        for size in sizes:
            cells = [row for row in own if row["signal"] == signal and row["batch_size"] == size]
            means = [row["cosine_of_mean"] for row in cells]
            line.append(f"{_mean([row['cosine'] for row in cells])} ({statistics.fmean(means):.2f})" if cells else "")
            clean = _mean([row["cosine_clean"] for row in cells]) if size == sizes[-1] else ""
        if any(line[1:]):
            table.append([*line, clean])
    return table


def cost_table(rows: Sequence[Row]) -> Table:
    """Time and peak memory of an environment step over those of one that pays nothing."""
    own = [row for row in rows if row["measure"] == "cost"]
    keys = sorted({(row["network"], row["batch_size"]) for row in own})
    header = [f"{network}, n = {size}: {what}" for network, size in keys for what in ("time", "memory")]
    table = Table("Cost over a plain environment step: median time (quartiles), peak memory", ["signal", *header])
    for signal in signals_of(rows):
        cells: list[str] = []
        for network, size in keys:
            found = [r for r in own if (r["signal"], r["network"], r["batch_size"]) == (signal, network, size)]
            cells += _cost_cells(found[0]) if found else ["", ""]
        if any(cells):
            table.append([signal, *cells])
    return table


def worst_task(rows: Sequence[Row], signal: str) -> str:
    """The task on which a signal's mean score is lowest, and that score: interquartile means leave it out."""
    cells: dict[str, list[float]] = {}
    for row in _outcomes(rows):
        if row["signal"] == signal:
            cells.setdefault(row["task"], []).append(row["score"])
    means = [(statistics.fmean(scores), task) for task, scores in cells.items()]
    return "{1} {0:.2f}".format(*min(means)) if means else ""


def _cost_cells(row: Row) -> list[str]:
    low, high = row["time_ratio_quartiles"]
    return [f"{row['time_ratio']:.2f} ({low:.2f}, {high:.2f})", f"{row['memory_ratio']:.2f}"]


def _names(rows: Sequence[Row]) -> set[str]:
    return {row["signal"] for row in _outcomes(rows)} - set(BASELINES)


def _outcomes(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["measure"] == "outcome"]


def _of(rows: Sequence[Row], measure: str, signal: str) -> list[Row]:
    return [row for row in rows if row["measure"] == measure and row["signal"] == signal]


def _score(rows: Sequence[Row], signal: str) -> Estimate | None:
    scores = strata(rows, signal)
    return interquartile_mean(scores) if scores else None


def _improvement(rows: Sequence[Row], signal: str, other: str) -> str:
    ours, theirs = strata(rows, signal, like=other), strata(rows, other, like=signal)
    if signal == other or not ours or len(ours) != len(theirs):
        return ""
    return "{:.2f} [{:.2f}, {:.2f}]".format(*probability_of_improvement(ours, theirs))


def _sizes(rows: Sequence[Row]) -> tuple[int, int]:
    """The largest batch that is held against leave-one-out, and the largest of all."""
    sizes = sorted({row["batch_size"] for row in rows if row["measure"] == "fidelity"})
    small = [size for size in sizes if size <= LARGEST_EXACT]
    return max(small, default=0), max(sizes, default=0)


def _mean(values: Sequence[float | None], form: str = ".2f") -> str:
    there = [value for value in values if value is not None]
    if not there:
        return ""
    found = summarise(there)
    return f"{found.mean:{form}} [{found.low:{form}}, {found.high:{form}}]"
