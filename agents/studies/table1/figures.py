"""Where controllers of data splits drew from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from agents.jobs.results import Row, check_columns, read_rows, reading
from agents.measures.figures import save, whole_steps
from agents.studies.table1.jobs import CURVE_EVERY, NETWORKS, PAPER, RECIPES
from gar_env.errors import ConfigurationError
from gar_env.registry import shown

NOISY, CLEAN = "#c1272d", "#4a6fa5"


def draw_figure2(results: Path, out: Path | None = None) -> list[Path]:
    """Draw figure 2 of each recipe in a results file of ``gar-env reproduce table1``.

    Args:
        results: The file.
        out: The PNG, if there is one recipe; beside the results file by default.

    Returns:
        The pictures.

    Raises:
        CheckpointError: If the file holds rows of something else.
        ConfigurationError: If it holds none, or one picture is asked for of several recipes.
    """
    columns = ("recipe", "network", "arm", "config", "keep", "losses", "noisy_auc")
    rows = check_columns(results, read_rows(results), columns)
    if not rows:
        raise ConfigurationError(f"{results} holds no rows to draw.")
    recipes = sorted({str(row["recipe"]) for row in rows})
    if recipes == [""] or (out and len(recipes) > 1):
        raise ConfigurationError(
            f"{results} holds the recipes {', '.join(recipes) or 'none'}; "
            + ("leave out --out: each gets a figure." if len(recipes) > 1 else "it is no file of reproduce table1.")
        )
    odd = [recipe for recipe in recipes if recipe not in RECIPES]
    if odd:
        raise ConfigurationError(f"{results} holds the recipe {shown(odd[0])}: it is no file of reproduce table1.")
    pictures = []
    for recipe in recipes:
        with reading(results):
            figure = figure2(rows, recipe)
        pictures.append(save(figure, out or results.with_name(f"figure2_{recipe}.png")))
    return pictures


def figure2(rows: Sequence[Row], recipe: str) -> Figure:
    """The paper's figure 2, a row per network: (a) NSLR, (b) GAR, (c) losses.

    (a) and (b): ``1 - softmax(s)`` over training for the noisy split and each clean one, median over seeds; the band is
    the noisy split's quartiles. (c): training loss under each controller, median over seeds.

    Raises:
        ConfigurationError: If there are no rows of that recipe, or rows of several configurations of a cell.
    """
    rows = [row for row in rows if row["recipe"] == recipe]
    cells: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        cells.setdefault((row["network"], row["arm"]), set()).add(row["config"])
    mixed = [" ".join(cell) for cell, configs in cells.items() if len(configs) > 1]
    if mixed:
        raise ConfigurationError(
            f"The results hold runs of several configurations for {', '.join(mixed)}; one figure would average them. "
            "Keep each configuration in a folder of its own."
        )
    networks = [network for network in NETWORKS if any(row["network"] == network for row in rows)]
    if not networks:
        raise ConfigurationError(
            f"The results hold no run of the recipe {recipe!r}. Run gar-env reproduce table1 first."
        )
    figure = Figure(figsize=(10, 2.6 * len(networks) + 0.4), layout="constrained")
    axes = figure.subplots(len(networks), 3, squeeze=False)
    for line, network in zip(axes, networks, strict=True):
        for ax, signal, letter in zip(line, ("nslr", "gar"), "ab", strict=False):
            cell = [r for r in rows if r["network"] == network and r["arm"] == signal]
            split_curves(ax, [np.array(r["keep"]) for r in cell], every=CURVE_EVERY)
            title = f"({letter}) {network}, {signal.upper()}"
            if cell:
                paper, ours = PAPER[network, signal][0], np.mean([r["noisy_auc"] for r in cell])
                title += f": noisy AUC {ours:.2f}, paper {paper:.2f}"
            ax.set_title(title, fontsize=9)
            ax.set_ylabel("1 - softmax(s)", fontsize=8)
        ax = line[2]
        for arm, colour in {"uniform": "0.5", "nslr": "C1", "gar": "C0", "oracle": "C2"}.items():
            losses = [r["losses"] for r in rows if r["network"] == network and r["arm"] == arm]
            if losses:
                middle = np.nanmedian(np.array(losses, dtype=float), axis=0)
                ax.plot((np.arange(len(middle)) + 1) * CURVE_EVERY, middle, color=colour, label=arm, linewidth=1.2)
        ax.set_title(f"(c) {network}, training loss", fontsize=9)
        ax.set_ylabel("loss (nats), median over seeds", fontsize=8)
        ax.legend(fontsize=7, frameon=False)
    labelled = next((ax for ax in axes[:, :2].flat if ax.get_legend_handles_labels()[0]), None)
    if labelled:
        labelled.legend(fontsize=7, frameon=False, loc="center")
    for ax in axes.flat:
        ax.tick_params(labelsize=7)
        ax.spines[["top", "right"]].set_visible(False)
    whole_steps(*axes.flat)
    for ax in axes[-1]:
        ax.set_xlabel("step", fontsize=8)
    return figure


def split_probabilities(curves: Sequence[np.ndarray], corrupted: Sequence[int], accuracies: dict[str, Any]) -> Figure:
    """The demo's picture: chance of drawing from each split over training, one thin line per seed and split.

    Args:
        curves: Per seed, probabilities ``[T, k]``.
        corrupted: Which columns are corrupted.
        accuracies: Controller -> text, for the caption.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    ax = figure.subplots()
    split_curves(ax, curves, every=1, corrupted=corrupted)
    ax.legend(fontsize=8, frameon=False, loc="center right")
    ax.axhline(1 / curves[0].shape[1], color="0.7", linewidth=0.8, linestyle=":")
    ax.text(0.99, 1 / curves[0].shape[1], " uniform", fontsize=7, color="0.5", ha="right", va="bottom",
            transform=ax.get_yaxis_transform())  # fmt: skip
    whole_steps(ax)
    ax.set(xlabel="training step", ylabel="chance of drawing from the split")
    ax.set_title("The controller leaves the corrupted split by itself", fontsize=10)
    caption = "test accuracy: " + ", ".join(f"{name} {text}" for name, text in accuracies.items())
    figure.supxlabel(caption, fontsize=8, color="0.3")
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def split_curves(ax: Any, curves: Sequence[np.ndarray], *, every: int, corrupted: Sequence[int] = (0,)) -> None:
    """Draw one line per split, its median over seeds, and the quartiles of the corrupted ones.

    Args:
        ax: Matplotlib axes.
        curves: Per seed ``[T, k]``.
        every: Steps between the rows of a curve.
        corrupted: Which columns are corrupted.
    """
    if not curves:
        ax.text(0.5, 0.5, "no runs", ha="center", transform=ax.transAxes)
        return
    stacked = np.stack([curve[: min(map(len, curves))] for curve in curves])
    steps = np.arange(stacked.shape[1]) * every
    for split in range(stacked.shape[2]):
        bad = split in corrupted
        first = split == (corrupted[0] if bad else next(s for s in range(stacked.shape[2]) if s not in corrupted))
        several = f", median of {len(stacked)} runs" if len(stacked) > 1 else ""
        label = (f"{'corrupted split' if bad else 'clean splits'}{several}") if first else None
        ax.plot(steps, np.median(stacked[:, :, split], 0), color=NOISY if bad else CLEAN, linewidth=1.8 if bad else 0.8,
                alpha=1 if bad else 0.7, label=label, zorder=3 if bad else 2)  # fmt: skip
        if bad and len(stacked) > 1:
            low, high = np.quantile(stacked[:, :, split], [0.25, 0.75], axis=0)
            name = "its quartiles" if first else None
            ax.fill_between(steps, low, high, color=NOISY, alpha=0.15, linewidth=0, label=name)
    ax.set_ylim(bottom=0)
