"""Pictures of the reward benchmark, from its rows alone."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure

from agents.jobs.results import Row
from agents.measures.aggregates import interquartile_mean
from agents.measures.intervals import summarise
from agents.studies.rewards.tables import comparable, first_costs, signals_of, strata
from agents.studies.rewards.tasks import ENVIRONMENTS


def all_figures(rows: Sequence[Row]) -> dict[str, Figure]:
    """Every picture that there are rows for, by file name."""
    measures = {row["measure"] for row in rows}
    figures = {}
    if "outcome" in measures:
        figures["outcome"] = outcome_figure(rows)
    if {"fidelity", "cost"} <= measures:
        figures["fidelity_cost"] = fidelity_against_cost(rows)
    if "fidelity" in measures:
        figures["over_training"] = over_training(rows)
        figures["batch_size"] = over_batch_sizes(rows)
    return figures


def outcome_figure(rows: Sequence[Row]) -> Figure:
    """Each signal's interquartile mean with its interval, and its mean on each task."""
    rows = comparable(rows)
    named = signals_of(rows)
    tasks = [task for task in ENVIRONMENTS if any(row.get("task") == task for row in rows)]
    figure = Figure(figsize=(8.5, 0.36 * len(named) + 1.4), layout="constrained")
    ax = figure.subplots()
    for place, signal in enumerate(named):
        found = interquartile_mean(strata(rows, signal))
        ax.plot([found.low, found.high], [place, place], color="black", linewidth=3, solid_capstyle="butt", zorder=3)
        ax.plot(found.value, place, "D", color="black", markersize=5, zorder=4)
        for number, task in enumerate(tasks):
            own = [r["score"] for r in rows if r["signal"] == signal and r["task"] == task]
            if own:
                ax.plot(statistics.fmean(own), place, "o", color=f"C{number}", markersize=7, alpha=0.75)
    for number, task in enumerate(tasks):
        ax.plot([], [], "o", color=f"C{number}", label=task)
    ax.axvline(0, color="0.6", linewidth=1)
    ax.axvline(1, color="0.6", linewidth=1, linestyle=":")
    ax.set_yticks(range(len(named)), named)
    ax.invert_yaxis()
    ax.set_xlabel("score: 0 uniform draws, 1 the oracle's; black: interquartile mean and 95 % interval")
    figure.legend(loc="outside right center", frameon=False)
    return figure


def fidelity_against_cost(rows: Sequence[Row]) -> Figure:
    """Rank correlation with leave-one-out, and cosine with the exact meta-gradient, over what a step costs."""
    named, colours = _named_and_coloured(rows)
    costs = first_costs(rows)
    where = next((f"{row['network']}, n = {row['batch_size']}" for row in costs.values()), "")
    sizes = sorted({row["batch_size"] for row in rows if row["measure"] == "fidelity"})
    ranked = [r["batch_size"] for r in rows if r["measure"] == "fidelity" and r["rank_correlation"] is not None]
    panels = [("cosine", sizes[-1], "cosine with the exact meta-gradient")]
    if ranked:
        panels.insert(0, ("rank_correlation", max(ranked), "rank correlation with leave-one-out"))
    figure = Figure(figsize=(6 * len(panels), 4.6), layout="constrained")
    for ax, (column, size, label) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        points = []
        for signal in named:
            values = _fidelity(rows, signal, size, column)
            if signal in costs and values:
                found, time = summarise(values), costs[signal]["time_ratio"]
                points.append((time, found.mean, signal, colours[signal]))
                error = [[found.mean - found.low], [found.high - found.mean]] if found.n > 1 else None
                ax.errorbar(time, found.mean, error, fmt="o", color=colours[signal], capsize=2)
        _name_points(ax, points)
        ax.margins(y=0.2)
        ax.axhline(0, color="0.7", linewidth=1)
        ax.set_xscale("log")
        ticks = [1, 1.5, 2, 3, 5, 10, 20, 50, 100]
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        ax.set_xlim(0.85, 2.5 * max([cost for cost, *_ in points], default=2))
        ax.set_xlabel(f"time of a step, over one that pays nothing ({where})")
        ax.set_ylabel(f"{label}, n = {size}")
    return figure


def over_training(rows: Sequence[Row]) -> Figure:
    """Rank correlation with leave-one-out, and cosine, at every point of training; mean over seeds."""
    named, colours = _named_and_coloured(rows)
    sizes = sorted({row["batch_size"] for row in rows if row["measure"] == "fidelity"})
    ranked = [r["batch_size"] for r in rows if r["measure"] == "fidelity" and r["rank_correlation"] is not None]
    panels = [("cosine_over_training", sizes[-1], "cosine with the exact meta-gradient")]
    if ranked:
        panels.insert(0, ("rank_correlation_over_training", max(ranked), "rank correlation with leave-one-out"))
    figure = Figure(figsize=(5 * len(panels) + 2, 4.2), layout="constrained")
    for ax, (column, size, label) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for signal in named:
            own = [r for r in rows if (r["measure"], r["signal"], r["batch_size"]) == ("fidelity", signal, size)]
            steps = own[0]["at"] if own else []
            curve = [_mean_of([row[column][point] for row in own]) for point in range(len(steps))]
            ax.plot(steps, curve, ".-", color=colours[signal], label=signal)
        ax.axhline(0, color="0.7", linewidth=1)
        ax.set_xlabel("environment step")
        ax.set_ylabel(f"{label}, n = {size}")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    return figure


def over_batch_sizes(rows: Sequence[Row]) -> Figure:
    """Theorem 1: the cosine of one step's policy gradient with the exact meta-gradient, as batches grow."""
    named, colours = _named_and_coloured(rows)
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    panels = (("cosine", "cosine with the exact meta-gradient"), ("signal_to_noise", "signal to noise"))
    for ax, (column, label) in zip(figure.subplots(1, 2), panels, strict=True):
        for signal in named:
            own = [row for row in rows if row["measure"] == "fidelity" and row["signal"] == signal]
            sizes = sorted({row["batch_size"] for row in own})
            cells = [_fidelity(rows, signal, size, column) for size in sizes]
            curve = [_mean_of(cell) for cell in cells]
            ax.plot(sizes, curve, ".-", color=colours[signal], label=signal)
        ax.set_xscale("log", base=2)
        every = sorted({row["batch_size"] for row in rows if row["measure"] == "fidelity"})
        ax.set_xticks(every, [str(size) for size in every])
        if column == "signal_to_noise":
            ax.set_yscale("symlog", linthresh=0.1)
            ax.set_ylim(bottom=0)
        ax.axhline(0, color="0.7", linewidth=1)
        ax.set_xlabel("slots")
        ax.set_ylabel(label)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    return figure


def _fidelity(rows: Sequence[Row], signal: str, size: int, column: str) -> list[float]:
    own = [r for r in rows if (r["measure"], r["signal"], r["batch_size"]) == ("fidelity", signal, size)]
    return [row[column] for row in own if row[column] is not None]


def _mean_of(values: Sequence[float | None]) -> float:
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if there else float("nan")


def _named_and_coloured(rows: Sequence[Row]) -> tuple[list[str], dict[str, Any]]:
    """Signals, best first, and a colour for each that does not depend on their order."""
    named = signals_of(rows)
    return named, {signal: colormaps["tab20"](place % 20) for place, signal in enumerate(sorted(named))}


def _name_points(ax: Any, points: Sequence[tuple[float, float, str, Any]]) -> None:
    """Write each name beside its point, moved down where another stands."""
    taken: list[tuple[float, float]] = []
    for x, y, name, colour in sorted(points, key=lambda point: -point[1]):
        place = y
        while any(abs(place - other) < 0.055 and max(x, left) / min(x, left) < 2 for left, other in taken):
            place -= 0.02
        taken.append((x, place))
        line = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
        ax.annotate(name, (x, y), (x * 1.08, place), fontsize=8, va="center", arrowprops=line, color=colour)
