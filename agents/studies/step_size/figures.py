"""Figures of ``gar-env reproduce stepsize``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from agents.jobs.results import Row
from agents.measures.figures import save, whole_steps
from agents.studies.step_size.cases import GRID, TESTS
from agents.studies.step_size.tables import found_in, rules_of, tests_in

COLOURS = {
    "constant": "0.55",
    "cosine": "0.2",
    "constant, learned": "#8c6d31",
    "absolute": "#c1272d",
    "direction": "#e6862b",
    "multiply": "#4a6fa5",
    "multiply-fast": "#1f3b73",
    "relative": "#2e8b57",
    "relative, few noisy labels": "#7cb518",
    "relative, noisy labels": "#6a3d9a",
    "relative, half noisy": "#a786c9",
    "ppo": "#17a2b8",
    "reinforce": "#b5477f",
}
"""Grey: nothing is learned."""


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Both figures of each rule; their PNG files."""
    paths = []
    for rule in rules_of(rows):
        if tests_in(rows):
            paths.append(save(sensitivity(rows, rule), folder / f"sensitivity_{rule}.png"))
        if any("step_sizes" in row for row in rows if row["rule"] == rule):
            paths.append(save(trajectories(rows, rule), folder / f"step_sizes_{rule}.png"))
    return paths


def sensitivity(rows: Sequence[Row], rule: str) -> Figure:
    """Final training loss against the initial step size, a panel for each test; bands are the range over learnings."""
    tests = tests_in(rows)
    columns = min(3, len(tests))
    lines = -(-len(tests) // columns)
    figure = Figure(figsize=(4.4 * columns, 3.1 * lines + 0.9), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True).ravel()
    handles = {}
    for ax, test in zip(axes, tests, strict=False):
        for arm, colour in COLOURS.items():
            own = found_in(rows, arm, rule, test)
            if own is None or own.losses.shape[1] != len(GRID):
                continue
            means = own.losses.mean(2)
            style = "--" if arm in ("constant", "cosine") else "-"
            handles[arm] = ax.plot(GRID, 10 ** means.mean(0), style, color=colour, lw=1.6)[0]
            if len(means) > 1:
                ax.fill_between(GRID, 10 ** means.min(0), 10 ** means.max(0), color=colour, alpha=0.18, lw=0)
        ax.set(xscale="log", yscale="log", title=TESTS[test].title)
        ax.grid(True, which="major", color="0.9")
    for ax in axes[len(tests) :]:
        ax.remove()
    figure.supxlabel("initial step size")
    figure.supylabel("final training loss (nats)")
    names = [name + (" (schedule)" if name in ("constant", "cosine") else "") for name in handles]
    figure.legend(handles.values(), names, loc="outside upper center", ncols=2 * columns, frameon=False, fontsize=8)
    axes[0].annotate(
        f"{rule}; bands: range over learnings", (0.02, 0.02), xycoords="axes fraction", fontsize=7, color="0.35"
    )
    return figure


def trajectories(rows: Sequence[Row], rule: str) -> Figure:
    """Step size against training step on the first test, from whole decades, one learning of each controller."""
    arms = [arm for arm in COLOURS if any(_is(row, arm, rule) for row in rows)]
    columns = min(4, len(arms))
    lines = -(-len(arms) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.6 * lines + 0.5), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for ax, arm in zip(axes, arms, strict=False):
        row = next(row for row in rows if _is(row, arm, rule))
        for sizes in row["step_sizes"]:
            values = np.array(sizes, dtype=float)
            ax.plot(5 * np.arange(len(values)), values, color=COLOURS[arm], lw=1.2)
        ax.set(yscale="log")
        ax.set_title(arm + (" (schedule)" if arm in ("constant", "cosine") else ""), fontsize=9)
        ax.grid(True, which="major", color="0.9")
    for ax in axes[len(arms) :]:
        ax.remove()
    whole_steps(*axes[: len(arms)])
    figure.supxlabel("training step")
    figure.supylabel("step size")
    figure.suptitle(f"{TESTS['digits'].title}, {rule}: one run from each of 1e-5, 1e-4, ..., 1", fontsize=10)
    return figure


def _is(row: Row, arm: str, rule: str) -> bool:
    return row["arm"] == arm and row["rule"] == rule and "step_sizes" in row
