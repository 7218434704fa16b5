"""``gar-env bench rewards``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from agents.studies.study import Study

if TYPE_CHECKING:
    from rich.console import Console

    from agents.jobs.job import Job
    from agents.jobs.results import Row


@dataclass(frozen=True, kw_only=True)
class RewardsStudy(Study):
    """Which reward signal is worth its cost? Outcome on tasks, fidelity, noise, time and memory of each.

    Costs are measured last, on this machine, one at a time.
    """

    signals: tuple[str, ...] = ()
    """By name, package.module:name for your own; all of ours by default. random is always among them."""
    env: tuple[str, ...] = ()
    """Only tasks of these: GAR/DataSplit-v0, GAR/DataWeight-v0, GAR/Augment-v0."""
    tasks: tuple[str, ...] = ()
    """noisy, trivial, redundant, hard, labels, arrows, which are the default; wanted, several, near, text."""
    arms: tuple[str, ...] = ()
    """Signals with another reference or policy, for outcomes: gar-keep, gar-softmax, distinct_gar-keep,
    distinct_gar-softmax, distinct_gar-uniform, distinct_gar-uniform-keep (the defaults of DataSplit-v1), heldout,
    heldout-keep, heldout-softmax, uniform_reference, other_half, agree, mae, mae_half, mae_half-bonus (those of
    DataWeight-v1)."""
    seeds: int = 5
    """Runs per signal, task and batch size."""
    first_seed: int = 0
    """Of them, so that what is chosen by one benchmark can be reported by another."""
    batch_sizes: tuple[int, ...] = (64, 256)
    """Slots, for outcomes and costs. Signals that cost a training step per example are run up to 64."""
    fidelity_batch_sizes: tuple[int, ...] = (16, 64, 256, 1024)
    """Slots, for fidelity."""
    dataset: str = "digits"
    """digits, cifar10 (torchvision's files), or the path of an .npz with x_train, y_train, x_test, y_test."""
    network: str = "fc_bn"
    """Of all runs."""
    cost_networks: tuple[str, ...] = ()
    """What costs are measured on; network by default."""
    steps: int = 200
    """Environment steps of a run."""
    out: Path = Path("runs/rewards")
    """Folder of results, tables and plots; the same command goes on with what is not in it."""
    download: bool = False
    """Let torchvision fetch data that are not there."""

    command: ClassVar[str] = "bench rewards"

    @property
    def results(self) -> Path:
        """See :class:`Study`."""
        return self.out / "rewards.jsonl"

    def jobs(self) -> Sequence[Job]:
        """Outcomes and fidelity."""
        from agents.studies.rewards.jobs import check, parallel_jobs
        from gar_env.data import load_dataset

        load_dataset(self.dataset, download=self.download)
        check(self)
        return parallel_jobs(self)

    def jobs_alone(self) -> Sequence[Job]:
        """Costs."""
        from agents.studies.rewards.jobs import cost_jobs

        return cost_jobs(self)

    def report(self, rows: Sequence[Row], console: Console) -> None:
        """See :class:`Study`."""
        from agents.files import write_whole
        from agents.measures.figures import save
        from agents.measures.tables import show
        from agents.studies.rewards.figures import all_figures
        from agents.studies.rewards.tables import all_tables

        out = self.out
        tables, figures = all_tables(rows), all_figures(rows)
        for name, table in tables.items():
            show(table, console, self.markdown)
            write_whole(out / f"{name}.csv", table.csv().encode())
            write_whole(out / f"{name}.md", f"{table.title}\n\n{table.markdown()}\n".encode())
        pictures = [save(figure, out / f"{name}.png") for name, figure in figures.items()]
        console.print(
            f"Results: {self.results}. Tables as .csv and .md, and {len(pictures)} plots: {out}", soft_wrap=True
        )
