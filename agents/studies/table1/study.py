"""``gar-env reproduce table1``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from agents.studies.study import Study

if TYPE_CHECKING:
    from rich.console import Console

    from agents.jobs.job import Job
    from agents.jobs.results import Row


@dataclass(frozen=True, kw_only=True)
class Table1Study(Study):
    """The paper's table 1: three networks x {GAR, NSLR} x seeds, and uniform and oracle sampling for accuracy."""

    dataset: str = "cifar10"
    """cifar10 (torchvision's files), or the path of an .npz with x_train, y_train, x_test, y_test."""
    recipe: Literal["paper", "best", "paper-derivative", "best-derivative"] = "paper"
    """paper is the closest reading of the paper, best is ours; derivative: see batch_norm of the environment."""
    seeds: int = 10
    """Runs per cell."""
    networks: tuple[str, ...] = ("fc_bn", "fc", "cnn_bn")
    """Rows of the table."""
    arms: tuple[str, ...] = ("gar", "nslr", "uniform", "oracle")
    """Controllers."""
    batch_size: int = 1000
    """Slots."""
    steps: int = 500
    """SGD steps per run."""
    out: Path = Path("runs/table1")
    """Folder of the results file, one per recipe; the same command goes on with what is not in it."""
    download: bool = False
    """Let torchvision fetch data that are not there."""

    command: ClassVar[str] = "reproduce table1"
    columns: ClassVar[tuple[str, ...]] = ("noisy_auc", "other_auc", "died", "test_accuracy")

    @property
    def results(self) -> Path:
        """See :class:`Study`."""
        return self.out / f"{self.recipe}.jsonl"

    def jobs(self) -> Sequence[Job]:
        """See :class:`Study`."""
        from agents.studies.table1.jobs import table1_jobs
        from gar_env.data import load_dataset

        load_dataset(self.dataset, download=self.download)
        return table1_jobs(
            self.recipe,
            dataset=self.dataset,
            seeds=self.seeds,
            networks=self.networks,
            arms=self.arms,
            num_envs=self.batch_size,
            steps=self.steps,
        )

    def report(self, rows: Sequence[Row], console: Console) -> None:
        """See :class:`Study`."""
        from agents.measures.tables import show
        from agents.studies.table1.jobs import accuracy_table, auc_table

        for table in (auc_table(rows, self.recipe), accuracy_table(rows, self.recipe)):
            show(table, console, self.markdown)
        console.print(f"Results: {self.results}. Draw figure 2 with: gar-env plot {self.results}", soft_wrap=True)
