"""What image operations do, and what a policy over them has learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.colors import TABLEAU_COLORS
from matplotlib.figure import Figure
from torch import Tensor

from agents.measures.figures import whole_steps
from gar_env.augment import OPERATIONS, STRENGTHS, Plan, SearchSpace, apply
from gar_env.errors import ConfigurationError

SHOWN = (0, 5, 10, 15, 20, 25, 30)  # strengths
HARMFUL = "#c1272d"
PALETTE = [colour for name, colour in TABLEAU_COLORS.items() if name not in ("tab:red", "tab:pink")]
"""Red has one meaning."""


def operations_grid(image: Tensor, space: SearchSpace, *, strengths: Sequence[int] = SHOWN) -> Figure:
    """Every operation of a space (rows) at some strengths (columns) on one image; signs positive, squares central.

    Args:
        image: uint8 ``[channels, height, width]``.
        space: Whose operations.
        strengths: In 0..30.
    """
    height, width = image.shape[1:]
    rows, columns = len(space), len(strengths)
    operations = torch.arange(rows).repeat_interleave(columns)[:, None]
    chosen = torch.tensor(strengths).repeat(rows)[:, None]
    middle = torch.tensor([width // 3, height // 3]).expand(rows * columns, 1, 2).contiguous()
    off = torch.zeros_like(chosen, dtype=torch.bool)
    plan = Plan(space, height, width, operations, chosen, ~off, off, middle)
    images = apply(plan, image.expand(rows * columns, -1, -1, -1))
    figure = Figure(figsize=(1.15 * columns + 1.2, 1.28 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for line, name in zip(axes, space.names, strict=True):
        for ax, strength in zip(line, strengths, strict=True):
            choice = space[name]
            _show(ax, images[0])
            images = images[1:]
            if choice.op.unit is not None:
                ax.set_title(f"{choice.value(strength):.3g} {choice.op.unit}", fontsize=7, pad=2)
            if choice.is_noop(strength):
                ax.set_title("no change", fontsize=7, pad=2, color="0.5")
        line[0].set_ylabel(name, fontsize=8, rotation=0, ha="right", va="center")
    for ax, strength in zip(axes[-1], strengths, strict=True):
        ax.set_xlabel(f"k = {strength}", fontsize=8)
    return figure


def augmented_grid(images: Tensor, plan: Plan, *, columns: int = 6) -> Figure:
    """Images as they are and as planned, with what was done.

    Args:
        images: uint8 ``[n, channels, height, width]``.
        plan: For these.
        columns: Pairs in a row.
    """
    done = apply(plan, images)
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2.3 * columns, 1.75 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for i, ax in enumerate(axes):
        if i >= len(images):
            ax.axis("off")
            continue
        gap = torch.full((images.shape[1], images.shape[2], max(1, images.shape[3] // 16)), 255, dtype=torch.uint8)
        _show(ax, torch.cat([images[i], gap, done[i]], 2))
        ax.set_title("\n".join(plan.describe(i)) or "nothing", fontsize=6, pad=2)
    return figure


def policy_figure(history: Mapping[str, np.ndarray], *, highlighted: Sequence[str] = ()) -> Figure:
    """Over training: chance to keep each operation, its mean strength, and the distribution of how many there are.

    Args:
        history: ``steps [T]``, ``names [A]``, ``num_operations [T, p]``, ``keep [T, A]``, ``strengths [T, A, 31]``, as
            ``policy.npz`` of a run holds them.
        highlighted: Operations to draw in red, such as those known to be harmful.
    """
    steps, names = history["steps"], [str(name) for name in history["names"]]
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.15, 1.15, 1))
    means = history["strengths"] @ np.arange(STRENGTHS)
    ranged = [i for i, name in enumerate(names) if _has_strength(name)]
    for ax, curves, shown, label in (
        (left, history["keep"], list(range(len(names))), "chance to keep"),
        (middle, means, ranged, "mean strength, 0 to 30"),
    ):
        order = sorted(shown, key=lambda i: curves[-1, i])
        top = float(curves[:, shown].max()) if shown else 1.0
        spots = _spread(curves[-1][order], gap=top * 0.045, top=top)
        for spot, i in zip(spots, order, strict=True):
            bad = names[i] in highlighted
            colour = HARMFUL if bad else PALETTE[i % len(PALETTE)]
            ax.plot(steps, curves[:, i], color=colour, linewidth=1.6 if bad else 0.9, alpha=1 if bad else 0.75)
            ax.annotate(names[i], (steps[-1], spot), xytext=(4, 0), textcoords="offset points", fontsize=6.5,
                        va="center", color=colour, annotation_clip=False)  # fmt: skip
        ax.set(title=label, xlabel="step", ylim=(0, None))
    counts = history["num_operations"]
    shades = colormaps["Blues"](np.linspace(0.3, 0.9, counts.shape[1]))
    right.stackplot(steps, counts.T, labels=[str(r + 1) for r in range(counts.shape[1])], colors=shades)
    right.set(title="number of operations", xlabel="step", ylabel="share of examples", ylim=(0, 1))
    right.set_xlim(steps[0], steps[-1])
    right.yaxis.set_label_position("right")  # on the left it would meet the names of the panel beside it
    right.legend(fontsize=7, loc="lower right", title="operations", title_fontsize=7)
    if highlighted:
        left.plot([], [], color=HARMFUL, linewidth=1.6, label="known to be harmful")
        left.legend(fontsize=7, frameon=False, loc="lower left")
    whole_steps(left, middle, right)
    _plain(left, middle, right)
    return figure


def strengths_figure(history: Mapping[str, np.ndarray]) -> Figure:
    """One panel per operation: its distribution over strengths (upwards) over training (to the right).

    Args:
        history: As for :func:`policy_figure`.

    Raises:
        ConfigurationError: If no operation has a strength.
    """
    steps, names, strengths = history["steps"], history["names"], history["strengths"]
    shown = [i for i, name in enumerate(names) if _has_strength(str(name))]
    if not shown:
        raise ConfigurationError(f"None of {', '.join(map(str, names))} has a strength; there is nothing to draw.")
    columns = 5
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(2.3 * columns, 1.7 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    top = max(3 / STRENGTHS, float(np.quantile(strengths, 0.995)))
    for ax in axes.flat[len(shown) :]:
        ax.axis("off")
    extent = (float(steps[0]), float(max(steps[-1], steps[0] + 1)), -0.5, STRENGTHS - 0.5)
    drawn = []
    for i, ax in zip(shown, axes.flat, strict=False):
        panel = ax.imshow(strengths[:, i].T, origin="lower", aspect="auto", extent=extent, vmin=0, vmax=top)
        ax.set_title(f"{names[i]} (keep {history['keep'][-1, i]:.2f})", fontsize=7, pad=3)
        ax.tick_params(labelsize=6)
        drawn.append(panel)
    figure.supxlabel("step", fontsize=8)
    figure.supylabel("strength", fontsize=8)
    figure.colorbar(drawn[0], ax=axes, shrink=0.5, label="chance").ax.tick_params(labelsize=6)
    return figure


def _show(ax, image: Tensor) -> None:
    array = image.cpu().numpy()
    ax.imshow(array[0] if len(array) == 1 else array.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=255)
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)


def _plain(*axes) -> None:
    for ax in axes:
        ax.tick_params(labelsize=7)
        ax.title.set_fontsize(9)
        ax.spines[["top", "right"]].set_visible(False)


def _has_strength(name: str) -> bool:
    return name not in OPERATIONS or OPERATIONS[name].unit is not None


def _spread(values: np.ndarray, *, gap: float, top: float) -> np.ndarray:
    """Where to write labels of ascending values so that they do not overlap, nor rise far above the axes."""
    spots = values.astype(float).copy()
    for i in range(1, len(spots)):
        spots[i] = max(spots[i], spots[i - 1] + gap)
    highest = top
    for i in reversed(range(len(spots))):
        spots[i] = min(spots[i], highest)
        highest = spots[i] - gap
    return spots
