"""Tables of ``gar-env reproduce agreement``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from agents.jobs.results import Row
from agents.measures.intervals import share_of_gain, summarise
from agents.measures.tables import Table
from agents.studies.agreement.cases import ARMS, CONFOUND, CORRUPTED, PROTOCOLS, PUBLISHED, RULES, UNIFORM

CASES = {name: one for kind in (*PROTOCOLS.values(), *PUBLISHED.values()) for name, one in kind.items()}
DIVERGED = "diverged"


def tables(rows: Sequence[Row]) -> list[Table]:
    """All that there are rows for."""
    cases = list(dict.fromkeys(row["case"] for row in rows if row["part"] in ("rules", "confound")))
    found = [table(rows, case) for case in cases for table in (_rules, _confound)]
    return [table for table in (*found, _paper(rows), _corrupted(rows), _signals(rows)) if table]


PAPER = {
    "sine": ("test loss", "-", "0.13", "0.08"),
    "Omniglot, 5-way 1-shot": ("accuracy", "98.7 ± 0.4", "97.68 ± 0.04", "98.6 ± 0.63"),
    "Omniglot, 20-way 1-shot": ("accuracy", "95.8 ± 0.3", "89.43 ± 0.14", "94.25 ± 0.51"),
    "miniImageNet, 5-way 1-shot": ("accuracy", "48.70 ± 1.84", "49.97 ± 0.32", "54.80 ± 1.19"),
}
"""What Eshratifar et al. (2018) print, of MAML, Reptile and agreement; number of tasks, steps and seeds unpublished."""


def _paper(rows: Sequence[Row]) -> Table:
    title = "What the paper prints; it says no step sizes, meta-batches or seeds"
    table = Table(title, ["", "measure", "MAML", "Reptile", "agreement"])
    titles = {CASES[row["case"]].title for row in rows if row["case"] in CASES}
    for name, cells in PAPER.items():
        if any(one.startswith(name.split(",")[0]) for one in titles):
            table.append([name, *cells])
    return table


def losses(rows: Sequence[Row], part: str, case: str, arm: str, size: float | None = None) -> list[float]:
    """Test losses by seed, infinite of what diverged."""
    own = [
        row
        for row in rows
        if (row["part"], row["case"], row["arm"]) == (part, case, arm) and size in (None, row["step_size"])
    ]
    by_seed = sorted(own, key=lambda row: row["seed"])
    return [math.inf if row["test_loss"] is None else row["test_loss"] for row in by_seed]


def best_step_size(rows: Sequence[Row], case: str, arm: str) -> float | None:
    """Whose mean loss is lowest on the seeds to tune; ``None`` if there are no such runs, or all diverged."""
    sizes = sorted({row["step_size"] for row in rows if (row["part"], row["case"], row["arm"]) == ("tune", case, arm)})
    means = {size: float(np.mean(losses(rows, "tune", case, arm, size))) for size in sizes}
    finite = {size: mean for size, mean in means.items() if math.isfinite(mean)}
    return min(finite, key=lambda size: finite[size]) if finite else None


def _rules(rows: Sequence[Row], case: str) -> Table:
    common, classes = CASES[case].common, "ways" in CASES[case].options
    measure = "test accuracy" if classes else "test loss"
    title = f"{CASES[case].title}: {measure} of each rule at its own best outer step size, and at {common:g}"
    header = ["rule", "own best step", measure, f"at {common:g}", "length ratio", "negative weights", "seeds", "died"]
    table = Table(title, header)
    for arm in RULES:
        size = best_step_size(rows, case, arm)
        own = _of(rows, "rules", case, arm)
        if not own:
            continue
        at_best = [row for row in own if row["step_size"] == size]
        at_common = [row for row in own if row["step_size"] == common]
        table.append(
            [
                arm,
                "" if size is None else f"{size:g}",
                _measured(at_best, classes=classes),
                _measured(at_common, classes=classes),
                _mean(at_common or at_best, "length_ratio", ".2f"),
                _mean(at_common or at_best, "negative_share", ".0%"),
                str(len(at_best or at_common)),
                f"{sum(row['diverged'] for row in at_best)} / {sum(row['diverged'] for row in at_common)}",
            ]
        )
    return table


def _confound(rows: Sequence[Row], case: str) -> Table:
    header = ["rule", "outer step size", "test loss", "over uniform, paired", "length ratio", "seeds"]
    table = Table(f"{CASES[case].title}: is it the direction, or the length of the step?", header)
    plain = losses(rows, "confound", case, UNIFORM)
    for arm, size in CONFOUND.items():
        own = _of(rows, "confound", case, arm)
        if own:
            found = losses(rows, "confound", case, arm)
            paired = [a - b for a, b in zip(found, plain, strict=False) if math.isfinite(a - b)]
            gap = summarise(paired).with_interval("+.3f") if arm != UNIFORM and paired else ""
            ratio = _mean(own, "length_ratio", ".2f")
            table.append([arm, f"{size:g}", _measured(own, classes=False), gap, ratio, str(len(own))])
    return table


def _corrupted(rows: Sequence[Row]) -> Table | None:
    case = next((row["case"] for row in rows if row["part"] == "corrupted"), None)
    if case is None:
        return None
    classes = case != "sine"
    header = ["weights", "test loss", *(["test accuracy"] if classes else [])]
    table = Table(CORRUPTED[case][0], [*header, "share of the oracle's gain in loss", "on corrupted tasks", "seeds"])

    def lower_is_better(arm: str) -> list[float]:
        return [-row["test_loss"] for row in _of(rows, "corrupted", case, arm)]

    base, best = lower_is_better("uniform"), lower_is_better("oracle")
    for arm in ARMS:
        own = _of(rows, "corrupted", case, arm)
        if not own:
            continue
        gain = ""
        if len(base) == len(best) == len(own) > 1 and arm not in ("uniform", "oracle"):
            share = share_of_gain(base, lower_is_better(arm), best)
            gain = "none to share" if share is None else "{:.2f} [{:.2f}, {:.2f}]".format(*share)
        late = summarise([row["weight_on_corrupted"] for row in own]).with_interval(".2f")
        measured = [_measured(own, classes=False), *([_measured(own, classes=True)] if classes else [])]
        table.append([arm, *measured, gain, late, str(len(own))])
    return table


def _signals(rows: Sequence[Row]) -> Table | None:
    own = [row for row in rows if row["part"] == "signals"]
    if not own:
        return None
    table = Table(
        f"{CORRUPTED[own[0]['case']][0]}: does a signal find them?", ["signal", "area under the curve", "seeds"]
    )
    for name in own[0]["auc"]:
        table.append([name, summarise([row["auc"][name] for row in own]).with_interval(), str(len(own))])
    return table


def _of(rows: Sequence[Row], part: str, case: str, arm: str) -> list[Row]:
    own = [row for row in rows if (row["part"], row["case"], row["arm"]) == (part, case, arm)]
    return sorted(own, key=lambda row: row["seed"])


def _measured(rows: Sequence[Row], *, classes: bool) -> str:
    values = [row["test_accuracy" if classes else "test_loss"] for row in rows]
    finite = [value for value in values if value is not None]
    if not finite:
        return DIVERGED if values else ""
    return summarise(finite).with_interval() + (
        f", {len(values) - len(finite)} died" if len(finite) < len(values) else ""
    )


def _mean(rows: Sequence[Row], name: str, form: str) -> str:
    values = [row[name] for row in rows if row[name] is not None and math.isfinite(row[name])]
    return f"{np.mean(values):{form}}" if values else ""
