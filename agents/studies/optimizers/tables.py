"""Tables of ``gar-env reproduce optimizers``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agents.jobs.results import Row
from agents.measures.intervals import gap, summarise
from agents.measures.tables import Table
from agents.studies.optimizers.cases import (
    EQUAL,
    FRESH,
    PUBLISHED,
    REFERENCES,
    RULES,
    SEARCHED_ON,
    SEARCHES,
    TITLES,
    TRANSFER,
)
from gar_env.optimizers import build_optimizer_rule

MARKS = (64, 128, 256, 512, 768, 1024)
"""Proposals at which the best so far is told."""

TRAINED = (32, 64, 96, 128, 192)
"""Likewise rules trained."""


def tables(rows: Sequence[Row]) -> list[Table]:
    """All that there are rows for."""
    children = list(dict.fromkeys(row["child"] for row in rows if row["part"] == "rules"))
    found = [
        *(_rules(rows, child) for child in children),
        _search(rows),
        _equal(rows),
        _transfer(rows),
        _curves(rows),
        _curves_by_cost(rows),
        _rewards(rows),
        _screen(rows),
    ]
    return [table for table in found if table]


def _rules(rows: Sequence[Row], child: str) -> Table:
    own = {row["arm"]: row for row in rows if (row["part"], row["child"]) == ("rules", child)}
    seeds = len(next(iter(own.values()))["accuracies"])
    title = f"{TITLES[child]}: accuracy of published rules, {seeds} seeds, step size chosen on all of them"
    header = ["rule", "step size", "validation", "test", "published validation / test, %"]
    table = Table(title, header)
    for name in RULES:
        if name in own:
            row = own[name]
            published = "{:.1f} / {:.1f}".format(*PUBLISHED[name]) if name in PUBLISHED else ""
            measured = summarise(row["accuracies"]).with_interval()
            cells = [f"{row['step_size']:g}", measured, f"{row['test_accuracy']:.3f}"]
            table.append([_text(name), *cells, published])
    return table


def _text(name: str) -> str:
    formula = str(build_optimizer_rule(name))
    return f"{name}: `{formula}`" if formula != name and name.isidentifier() else f"`{formula}`"


def _search(rows: Sequence[Row]) -> Table:
    title = (
        f"The best rule of each search, paid by children {list(SEARCHED_ON)}: its validation accuracy there; and on "
        f"{len(FRESH)} children with other parameters and batches, the step size chosen anew, also its test accuracy"
    )
    header = ["search", "where it was chosen", "fresh children", "over random", "test", "trained", "CPU s", "runs"]
    table = Table(title, header)
    plain = [row["validation_accuracy"] for row in _of(rows, "search", "random")]
    for arm in SEARCHES:
        own = _of(rows, "search", arm)
        if not own:
            continue
        fresh = [row["validation_accuracy"] for row in own]
        table.append(
            [
                arm,
                summarise([row["search_accuracy"] for row in own]).with_interval(),
                summarise(fresh).with_interval(),
                gap(fresh, plain).with_interval("+.3f") if plain and arm != "random" else "",
                summarise([row["test_accuracy"] for row in own]).with_interval(),
                f"{np.mean([row['curve'][-1][3] for row in own]):.0f}",
                f"{np.mean([row['search_cpu_seconds'] for row in own]):.0f}",
                str(len(own)),
            ]
        )
    for name in REFERENCES:
        for row in _of(rows, "references", name):
            measured = summarise(row["accuracies"]).with_interval()
            table.append([_text(name), "", measured, "", f"{row['test_accuracy']:.3f}", "", "", ""])
    return table


def _equal(rows: Sequence[Row]) -> Table:
    title = f"The best rule of each search when {EQUAL} rules had been trained (fewer if it ended), on fresh children"
    table = Table(title, ["search", "fresh children", "over random", "test", "over random", "trained", "proposals"])
    names = "early_validation_accuracy", "early_test_accuracy"
    plain = {name: [row[name] for row in _of(rows, "search", "random")] for name in names}
    for arm in SEARCHES:
        own = _of(rows, "search", arm)
        if not own:
            continue
        cells = []
        for name in names:
            fresh = [row[name] for row in own]
            over = gap(fresh, plain[name]).with_interval("+.3f") if plain[name] and arm != "random" else ""
            cells += [summarise(fresh).with_interval(), over]
        ends = [next((p for p in row["curve"] if p[3] >= EQUAL), row["curve"][-1]) for row in own]
        counts = [f"{np.mean([end[place] for end in ends]):.0f}" for place in (3, 0)]
        table.append([arm, *cells, *counts])
    return table


def _transfer(rows: Sequence[Row]) -> Table:
    own = [row for row in rows if row["part"] == "transfer"]
    children, arms = (list(dict.fromkeys(row[key] for row in own)) for key in ("child", "arm"))
    title = f"The best rule of all searches on {len(TRANSFER)} more children, and on other data: validation / test"
    table = Table(title, ["rule", *(TITLES[child] for child in children)])
    for arm in arms:
        cells = []
        for child in children:
            rows_of = [row for row in own if (row["child"], row["arm"]) == (child, arm)]
            measured = [
                f"{summarise(row['accuracies']).with_interval()} / {row['test_accuracy']:.3f}" for row in rows_of
            ]
            cells.append(measured[0] if measured else "")
        table.append([_text(arm), *cells])
    return table


def _curves(rows: Sequence[Row]) -> Table:
    own = [row for row in rows if row["part"] == "search"]
    marks = [mark for mark in MARKS if own and mark <= own[0]["curve"][-1][0]]
    table = Table("Best so far, where it was chosen, by proposals (rules trained)", ["search", *map(str, marks)])
    for arm in SEARCHES:
        curves = [row["curve"] for row in _of(rows, "search", arm)]
        if curves and marks:
            cells = []
            for mark in marks:
                points = [next(point for point in curve if point[0] >= mark) for curve in curves]
                cells.append(f"{np.mean([p[1] for p in points]):.3f} ({np.mean([p[3] for p in points]):.0f})")
            table.append([arm, *cells])
    return table


def _curves_by_cost(rows: Sequence[Row]) -> Table:
    most = max((row["curve"][-1][3] for row in rows if row["part"] == "search"), default=0)
    marks = [mark for mark in TRAINED if mark <= most]
    table = Table(
        "Best so far, where it was chosen, by rules trained; runs that got there", ["search", *map(str, marks)]
    )
    for arm in SEARCHES:
        curves = [row["curve"] for row in _of(rows, "search", arm)]
        if curves and marks:
            cells = []
            for mark in marks:
                points = [next((point for point in curve if point[3] >= mark), None) for curve in curves]
                there = [point[1] for point in points if point is not None]
                cells.append(f"{np.mean(there):.3f} ({len(there)})" if there else "")
            table.append([arm, *cells])
    return table


def _rewards(rows: Sequence[Row]) -> Table | None:
    row = next((row for row in rows if row["part"] == "rewards"), None)
    if row is None or not row["signals"]:
        return None
    title = (
        f"Rewards on one seed against the accuracy on three others: {row['rules']} random rules of two groups, "
        f"{row['train']} of which train"
    )
    header = ["reward", "area under the curve", "rank correlation of those that train", "top tenth found", "cost"]
    table = Table(title, header)
    for name, one in row["signals"].items():
        cells = []
        for key in ("auc", "rank_correlation"):
            value, low, high = one[key]
            cells.append(f"{value:.2f} [{low:.2f}, {high:.2f}]")
        table.append([f"`{name}`", *cells, f"{one['top_found']:.2f}", f"{one['cost']:.2f}"])
    return table


def _screen(rows: Sequence[Row]) -> Table:
    title = "The screen, on children and rules that its threshold was not chosen on: what it keeps"
    table = Table(title, ["child", "rules", "of all", "of those that train", "of their top tenth"])
    for row in rows:
        if row["part"] == "screen":
            parts = [("trains_kept", "train"), ("top_kept", "top")]
            cells = [f"{row['kept']:.0%}"]
            cells += [f"{row[share]:.0%} of {row[count]}" if row[count] else "none" for share, count in parts]
            table.append([TITLES[row["child"]], str(row["rules"]), *cells])
    return table


def exported(rows: Sequence[Row]) -> list[str]:
    """The best rules on fresh seeds, and the line that exports the first."""
    own = sorted((row for row in rows if row["part"] == "search"), key=lambda row: -row["validation_accuracy"])[:5]
    if not own:
        return []
    lines = ["Best rules of all searches, on fresh seeds (chosen among them: optimistic once more):"]
    for row in own:
        found = f"{row['validation_accuracy']:.4f}  {row['formula']}  step size {row['step_size']:g}"
        lines.append(f"  {found}  ({row['arm']})")
    first = own[0]
    return [*lines, f"  Rule({first['formula']!r}).to_optimizer(network.parameters(), lr={first['step_size']:g})"]


def _of(rows: Sequence[Row], part: str, arm: str) -> list[Row]:
    return sorted((row for row in rows if (row["part"], row["arm"]) == (part, arm)), key=lambda row: row["seed"])
