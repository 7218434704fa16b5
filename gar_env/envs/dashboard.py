"""A small dashboard of one training run: loss, usage, rewards; as text or as pixels."""

from __future__ import annotations

import math

import numpy as np

from gar_env.errors import MissingExtraError

BAR = 30  # characters
BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: list[float], width: int = 60) -> str:
    """The last ``width`` values as block characters, lowest to highest.

    Example:
        >>> sparkline([0.0, 1.0, 2.0])
        '▁▄█'
    """
    finite = [value for value in values[-width:] if math.isfinite(value)]
    if not finite:
        return ""
    low, span = min(finite), (max(finite) - min(finite)) or 1.0
    return "".join(BLOCKS[int((value - low) / span * (len(BLOCKS) - 1))] for value in finite)


class Dashboard:
    """What to draw: one loss and one mean reward per step, and shares by name.

    Args:
        title: The headline.
        of: What the shares are of: ``"draws"``.
    """

    def __init__(self, title: str, of: str = "draws") -> None:
        self.title, self.of = title, of
        self.clear()

    def clear(self) -> None:
        """A new episode."""
        self.losses: list[float] = []
        self.rewards: list[float] = []
        self.usage: dict[str, float] = {}

    def add(self, loss: float, reward: float) -> None:
        """One step."""
        self.losses.append(loss)
        self.rewards.append(reward)

    def ansi(self) -> str:
        """The dashboard as lines of text."""
        lines = [f"{self.title}  step {len(self.losses)}"]
        if self.losses:
            lines.append(f"loss    {self.losses[-1]:9.4f}  {sparkline(self.losses)}")
            lines.append(f"reward  {self.rewards[-1]:9.2e}  {sparkline(self.rewards)}")
        width = max((len(name) for name in self.usage), default=0)
        top = max(self.usage.values(), default=1.0) or 1.0
        for name, share in self.usage.items():
            lines.append(f"{name:<{width}}  {share:6.1%}  {'█' * round(BAR * share / top)}")
        return "\n".join(lines) + "\n"

    def rgb_array(self) -> np.ndarray:
        """The dashboard as pixels, uint8 ``[360, 640, 3]``.

        Raises:
            MissingExtraError: If matplotlib is not installed.
        """
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
            from matplotlib.ticker import MaxNLocator
        except ImportError as error:
            raise MissingExtraError(
                "render_mode='rgb_array' draws with matplotlib, which is not installed: pip install 'gar-env[plot]'."
            ) from error
        figure = Figure(figsize=(6.4, 3.6), dpi=100, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axes = figure.subplot_mosaic([["loss", "usage"], ["reward", "usage"]])
        figure.suptitle(f"{self.title}, step {len(self.losses)}", fontsize=10)
        steps = range(1, len(self.losses) + 1)
        mark = "o" if len(self.losses) == 1 else None  # one step is no line
        axes["loss"].plot(steps, self.losses, marker=mark, color="C0")
        axes["loss"].set_ylabel("loss (nats)")
        axes["reward"].plot(steps, self.rewards, marker=mark, color="C2")
        axes["reward"].set(ylabel="mean reward", xlabel="step")
        for name in ("loss", "reward"):
            axes[name].xaxis.set_major_locator(MaxNLocator(integer=True))
            axes[name].yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
        axes["usage"].barh(list(self.usage), list(self.usage.values()), color="C1")
        axes["usage"].invert_yaxis()
        axes["usage"].set_xlabel(f"share of {self.of}")
        for ax in axes.values():
            ax.tick_params(labelsize=7)
            ax.spines[["top", "right"]].set_visible(False)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()
