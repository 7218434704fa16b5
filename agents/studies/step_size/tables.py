"""Tables of ``gar-env reproduce stepsize``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agents.jobs.results import Row
from agents.measures.intervals import summarise
from agents.measures.tables import Table
from agents.studies.step_size.cases import GRID, LEARNED, TESTS

ITS_OWN = "its own"


@dataclass(frozen=True)
class Found:
    """What one arm came to in one test: log10 of final training losses.

    Args:
        losses: ``[learnings, initial step sizes, runs]``; one learning of what does not learn, one step size of what
            has its own.
        diverged: Likewise.
        accuracies: Likewise, NaN of runs that diverged.
    """

    losses: np.ndarray
    diverged: np.ndarray
    accuracies: np.ndarray

    @property
    def by_start(self) -> np.ndarray:
        """Mean over learnings and runs, from each initial step size."""
        return self.losses.mean((0, 2))

    @property
    def by_learning(self) -> np.ndarray:
        """Mean over initial step sizes and runs, of each learning; of each run where nothing is learned."""
        return self.losses.mean((1, 2)) if len(self.losses) > 1 else self.losses[0].mean(0)

    @property
    def spread(self) -> float:
        """Worst less best initial step size, of each learning by itself, mean over learnings."""
        means = self.losses.mean(2)
        return float((means.max(1) - means.min(1)).mean())


def found_in(rows: Sequence[Row], arm: str, rule: str, test: str) -> Found | None:
    """All that there is of an arm in a test."""
    own = [
        row["tests"][test]
        for row in rows
        if row["arm"] == arm and row["rule"] in (rule, ITS_OWN) and test in row["tests"]
    ]
    if not own:
        return None

    def stacked(name: str) -> np.ndarray:
        return np.array([one[name] for one in own], dtype=float)

    return Found(stacked("log_losses"), stacked("diverged"), stacked("accuracies"))


def arms_of(rows: Sequence[Row]) -> list[str]:
    """In the order of their first rows, learned ones first."""
    there = [row["arm"] for row in rows if row["arm"] != "overhead"]
    return list(dict.fromkeys([*(arm for arm in LEARNED if arm in there), *there]))


def rules_of(rows: Sequence[Row]) -> list[str]:
    """Update rules, in the order of their first rows."""
    return list(dict.fromkeys(row["rule"] for row in rows if row["rule"] != ITS_OWN))


def tests_in(rows: Sequence[Row]) -> list[str]:
    """Tests that any row has."""
    there = {test for row in rows for test in row["tests"]}
    return [test for test in TESTS if test in there]


def tables(rows: Sequence[Row]) -> list[Table]:
    """An overview of each rule, each rule and test, and the paper's claims beside what was found."""
    overviews = [_overview(rows, rule) for rule in rules_of(rows)]
    single = [_test_table(rows, rule, test) for rule in rules_of(rows) for test in tests_in(rows)]
    return [*(table for table in overviews if table), *single, _claims(rows)]


def _overview(rows: Sequence[Row], rule: str) -> Table | None:
    tests = [test for test in tests_in(rows) if found_in(rows, "constant", rule, test)]
    if not tests:
        return None
    title = f"{rule}: decades of final training loss from the best constant step size of the grid (below 0: better)"
    table = Table(title, ["controller", *(TESTS[test].title for test in tests)])
    for arm in arms_of(rows):
        cells = []
        for test in tests:
            own, best = found_in(rows, arm, rule, test), best_constant(rows, rule, test)
            cells.append(summarise(own.by_learning - best[1]).with_interval("+.2f") if own else "")
        if any(cells):
            table.append([arm, *cells])
    return table


def best_constant(rows: Sequence[Row], rule: str, test: str) -> tuple[float, float, np.ndarray]:
    """``(step size, its mean log10 loss, the best of the grid for each run [runs])``."""
    constants = found_in(rows, "constant", rule, test)
    assert constants is not None
    place = int(constants.by_start.argmin())
    return GRID[place], float(constants.by_start[place]), constants.losses[0].min(0)


def _test_table(rows: Sequence[Row], rule: str, test: str) -> Table:
    constants = found_in(rows, "constant", rule, test)
    title = f"{TESTS[test].title}, {TESTS[test].num_steps} steps, {rule}: log10 of the final training loss"
    if constants:
        size, best, _ = best_constant(rows, rule, test)
        title += f". Best constant: {best:.2f} at {size:.2g}"
    header = ["controller", "mean", "best start", "worst start", "spread", "regret", "diverged", "test accuracy", "n"]
    table = Table(title, header)
    for arm in arms_of(rows):
        own = found_in(rows, arm, rule, test)
        if own is None:
            continue
        starts, n = own.by_start, len(own.losses)
        regret = ""
        if constants:
            _, _, oracle = best_constant(rows, rule, test)
            regret = f"{float((own.losses - oracle).mean()):.2f}"
        accuracy = "" if np.isnan(own.accuracies).all() else f"{np.nanmean(own.accuracies):.3f}"
        alone = len(starts) == 1
        table.append(
            [
                arm,
                summarise(own.by_learning).with_interval(".2f"),
                "" if alone else f"{starts.min():.2f}",
                "" if alone else f"{starts.max():.2f}",
                "" if alone else f"{own.spread:.2f}",
                regret,
                f"{100 * own.diverged.mean():.0f} %",
                accuracy,
                f"{n} learning{'s' * (n > 1)}"
                if arm in LEARNED or arm in ("ppo", "reinforce")
                else f"{own.losses.shape[2]} runs",
            ]
        )
    return table


def _claims(rows: Sequence[Row]) -> Table:
    table = Table("What Daniel, Taylor & Nowozin (2016) say, and what was found", ["", "paper", "here"])
    for rule in rules_of(rows):
        own = [row for row in rows if row["arm"] in LEARNED and row["rule"] == rule]
        if own:
            seconds = [row["learning_seconds"] for row in own]
            text = f"{summarise(seconds).with_interval('.0f')}, {max(seconds):.0f} at most, CPU seconds"
            table.append([f"time to learn, all forms, {rule}", "six hours", text])
    for rule in rules_of(rows):
        for arm in LEARNED:
            own = [row for row in rows if row["arm"] == arm and row["rule"] == rule and "perturbed" in row]
            if not own:
                continue
            gaps = []
            for row in own:
                # The very same runs: the first from each initial step size, over and over.
                first = np.array(next(iter(row["tests"].values()))["log_losses"], dtype=float)[:, 0]
                perturbed = np.array(row["perturbed"], dtype=float)
                gaps.append(float((perturbed - np.resize(first, perturbed.shape)).mean()))
            table.append(
                [
                    f"weights ± 20 %, {arm}, {rule}",
                    "harmless",
                    f"{summarise(gaps).with_interval('+.2f')} decades of final loss",
                ]
            )
    for row in rows:
        if row["arm"] == "overhead":
            low, high = row["quartiles"]
            name = f"features, {row['rule']}, {TESTS[row['test']].title}, {row['seed']} at once"
            here = f"{100 * (row['ratio'] - 1):.0f} % [{100 * (low - 1):.0f}, {100 * (high - 1):.0f}]"
            table.append([name, "36 %", here])
    return table
