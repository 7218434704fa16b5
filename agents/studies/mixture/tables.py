"""Tables of ``gar-env reproduce mixture``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agents.jobs.results import Row
from agents.measures.intervals import summarise
from agents.measures.tables import Table
from agents.studies.mixture.jobs import ARMS


def tables(rows: Sequence[Row]) -> list[Table]:
    """All that there are rows for."""
    found = [_losses(rows), _draws(rows)]
    return [table for table in found if table]


def _of(rows: Sequence[Row], arm: str) -> list[Row]:
    return sorted((row for row in rows if row["arm"] == arm and not row["diverged"]), key=lambda row: row["seed"])


def _losses(rows: Sequence[Row]) -> Table:
    header = ["mixture", "test loss", "share of the oracle's gain", "better than uniform", "CPU time", "runs"]
    table = Table("Mean test loss over the wanted sources, nats per byte; equal numbers of SGD steps", header)
    plain, best = ({row["seed"]: row for row in _of(rows, arm)} for arm in ("uniform", "oracle"))
    for arm in ARMS:
        own = _of(rows, arm)
        if not own:
            continue
        losses = [row["test_loss"] for row in own]
        paired = [row for row in own if row["seed"] in plain and row["seed"] in best]
        shares, gains, times = [], "", ""
        if paired:
            base = [plain[row["seed"]]["test_loss"] for row in paired]
            top = [best[row["seed"]]["test_loss"] for row in paired]
            mine = [row["test_loss"] for row in paired]
            shares = [(b - m) / (np.mean(base) - np.mean(top)) for b, m in zip(base, mine, strict=True)]
            gains = summarise([b - m for b, m in zip(base, mine, strict=True)]).with_interval("+.3f")
            ratios = [
                row["cpu_seconds"] / plain[row["seed"]]["cpu_seconds"]
                for row in paired
                if row["device"] == plain[row["seed"]]["device"] == "cpu"
            ]
            times = f"{np.median(ratios):.2f}" if ratios else ""
        learned = arm not in ("uniform", "oracle")
        table.append(
            [
                arm,
                summarise(losses).with_interval(),
                summarise(shares).with_interval(".2f") if shares and learned else "",
                gains if arm != "uniform" else "",
                times,
                str(len(own)),
            ]
        )
    return table


def _draws(rows: Sequence[Row]) -> Table:
    sources = list(rows[0]["draws"]) if rows else []
    table = Table("Share of all draws from each source, mean over runs", ["mixture", *sources])
    for arm in ARMS:
        own = _of(rows, arm)
        if own:
            table.append([arm, *(f"{np.mean([row['draws'][source] for row in own]):.2f}" for source in sources)])
    return table
