"""Tables of the reward benchmark, from its rows alone."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from agents.jobs.results import Row
from agents.measures.aggregates import Estimate, interquartile_mean, probability_of_improvement
from agents.measures.intervals import summarise
from agents.measures.tables import Table
from agents.studies.rewards.fidelity import DRAWS
from agents.studies.rewards.outcome import BASELINES, ORACLE, UNIFORM, baselines_of
from agents.studies.rewards.signals import LARGEST_EXACT
from agents.studies.rewards.tasks import ENVIRONMENTS, UNSCORED

CHANCE = "random"

GUARD = 0.5
"""Points of test accuracy that a safe controller does not lose against uniform draws."""


def all_tables(rows: Sequence[Row]) -> dict[str, Table]:
    """Every table that there are rows for, by file name."""
    tables = {
        "summary": summary_table(rows),
        "scores": scores_table(rows),
        "accuracy": accuracy_table(rows),
        "guard": guard_table(rows),
        "labels": labels_table(rows),
        "fidelity": fidelity_table(rows),
        "cost": cost_table(rows),
    }
    return {name: table for name, table in tables.items() if table}


def signals_of(rows: Sequence[Row]) -> list[str]:
    """Every signal that has rows, best score first, then in alphabetical order."""
    outcomes = comparable(rows)
    named = {row["signal"] for row in rows} - set(BASELINES)
    best = {signal: _score(outcomes, signal) for signal in named}
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
    for row in _scored(rows):
        key = row["task"], row["batch_size"]
        if row["signal"] == signal and (like is None or key in others):
            cells.setdefault(key, []).append(row["score"])
    return [cells[key] for key in sorted(cells)]


def comparable(rows: Sequence[Row]) -> list[Row]:
    """Outcomes over which scores can be compared, the baselines' left out.

    Those at batch sizes at which all signals have runs on all tasks. A signal that has them at no batch size, because
    runs failed or are still to come, does not count, and has no rows here.
    """
    outcomes = [row for row in _outcomes(rows) if row["signal"] not in BASELINES]
    tasks = {row["task"] for row in outcomes}
    there: dict[str, set[int]] = {}
    for signal in {row["signal"] for row in outcomes}:
        cells = {(row["task"], row["batch_size"]) for row in outcomes if row["signal"] == signal}
        whole = {size for _, size in cells if all((task, size) in cells for task in tasks)}
        if whole:
            there[signal] = whole
    common = set.intersection(*there.values()) if there else set()
    return [row for row in outcomes if row["signal"] in there and row["batch_size"] in common]


def summary_table(rows: Sequence[Row]) -> Table:
    """One line per signal: outcome, fidelity and cost."""
    exact, large = _sizes(rows)
    outcomes = comparable(rows)
    sizes = ", ".join(str(size) for size in sorted({row["batch_size"] for row in outcomes}))
    costs = first_costs(rows)
    measured = next((f", {row['network']}, n = {row['batch_size']}" for row in costs.values()), "")
    table = Table(
        "Which signal is worth its cost? Interquartile means over tasks and seeds, 95 % intervals",
        [
            "signal",
            f"score, n = {sizes}" if sizes else "score",
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
        score = _score(outcomes, signal)
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
                *(_cost_cells(costs[signal]) if signal in costs else ("", "")),
            ]
        )
    return table


def scores_table(rows: Sequence[Row]) -> Table:
    """One line per signal and batch size: all tasks together, and each; mean over seeds and 95 % interval."""
    tasks, outcomes = tasks_of(rows), _outcomes(rows)
    auc = ["noisy split's AUC"] if "noisy" in tasks else []
    title = "Score per task (0: uniform draws, 1: the oracle's; of wanted 0 is best, and it is in no mean)"
    table = Table(title, ["signal", "n", "all tasks", *tasks, *auc, "seeds"])
    for size in sorted({row["batch_size"] for row in outcomes}):
        for signal in signals_of(rows):
            own = [row for row in outcomes if (row["signal"], row["batch_size"]) == (signal, size)]
            if own:
                cells = [_mean([row["score"] for row in own if row["task"] == task]) for task in tasks]
                cells += [_mean([row["auc"] for row in own if row["task"] == "noisy"]) for _ in auc]
                table.append([signal, str(size), str(_score(own, signal)), *cells, _seeds(own, tasks)])
    return table


def accuracy_table(rows: Sequence[Row]) -> Table:
    """Test accuracy at the end of training, beside uniform draws and the oracle; runs that diverged are left out."""
    tasks, outcomes = tasks_of(rows), _outcomes(rows)
    table = Table("Test accuracy per task", ["signal", "n", *tasks, "diverged", "seeds"])
    for size in sorted({row["batch_size"] for row in outcomes}):
        for arm in [*signals_of(rows), *BASELINES]:
            own = [row for row in outcomes if (row["signal"], row["batch_size"]) == (arm, size)]
            if own:
                cells = [_mean([row["test_accuracy"] for row in own if row["task"] == task]) for task in tasks]
                diverged = sum(row["diverged"] for row in own)
                there = [task for task in tasks if arm not in BASELINES or arm in baselines_of(task)]
                table.append([arm, str(size), *cells, str(diverged), _seeds(own, there)])
    return table


def guard_table(rows: Sequence[Row]) -> Table:
    """Points of test accuracy over uniform draws, seed by seed: what a controller may cost where it does not help.

    A run that diverged, beside uniform draws that did not, counts as an accuracy of 0.
    """
    tasks, outcomes = tasks_of(rows), _outcomes(rows)
    table = Table(
        f"Points of test accuracy over uniform draws (losses: tasks that cost more than {GUARD} in the mean)",
        ["arm", "n", *tasks, "mean", "losses"],
    )
    for size in sorted({row["batch_size"] for row in outcomes}):
        for arm in [*signals_of(rows), ORACLE]:
            gains = {task: _gains(outcomes, arm, task, size) for task in tasks}
            means = [statistics.fmean(each) for each in gains.values() if each]
            if means:
                cells = [summarise(each).with_interval("+.1f") if each else "" for each in gains.values()]
                lost = sum(mean < -GUARD for mean in means)
                table.append([arm, str(size), *cells, f"{statistics.fmean(means):+.1f}", f"{lost} of {len(means)}"])
    return table


def _gains(outcomes: Sequence[Row], arm: str, task: str, size: int) -> list[float]:
    """Points of accuracy of an arm over those of uniform draws, one for each seed that both have."""
    found: dict[str, dict[int, float]] = {arm: {}, UNIFORM: {}}
    for row in outcomes:
        if row["signal"] in found and (row["task"], row["batch_size"]) == (task, size):
            found[row["signal"]][row["seed"]] = row["test_accuracy"] or 0.0
    return [100 * (found[arm][seed] - plain) for seed, plain in found[UNIFORM].items() if plain and seed in found[arm]]


def tasks_of(rows: Sequence[Row]) -> list[str]:
    """Every task that there are runs of."""
    return [task for task in ENVIRONMENTS if any(row["task"] == task for row in _outcomes(rows))]


def _seeds(rows: Sequence[Row], tasks: Sequence[str]) -> str:
    """Of the task with the fewest, of those that there are any of: not every arm is on every task."""
    counts = [sum(row["task"] == task for row in rows) for task in tasks]
    return str(min((count for count in counts if count), default=0))


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
    for row in _scored(rows):
        if row["signal"] == signal:
            cells.setdefault(row["task"], []).append(row["score"])
    means = [(statistics.fmean(scores), task) for task, scores in cells.items()]
    if not means:
        return ""
    lowest, task = min(means)
    return f"{task} {lowest:.2f}"


def first_costs(rows: Sequence[Row]) -> dict[str, Row]:
    """Each signal's costs on the network and at the batch size that were measured first; not of every signal."""
    costs = [row for row in rows if row["measure"] == "cost"]
    where = [(row["network"], row["batch_size"]) for row in costs][:1]
    return {row["signal"]: row for row in costs if (row["network"], row["batch_size"]) in where}


def _cost_cells(row: Row) -> list[str]:
    low, high = row["time_ratio_quartiles"]
    return [f"{row['time_ratio']:.2f} ({low:.2f}, {high:.2f})", f"{row['memory_ratio']:.2f}"]


def _outcomes(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["measure"] == "outcome"]


def _scored(rows: Sequence[Row]) -> list[Row]:
    return [row for row in _outcomes(rows) if row["task"] not in UNSCORED]


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
    return summarise(there).with_interval(form)
