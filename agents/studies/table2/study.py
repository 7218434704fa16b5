"""``gar-env reproduce table2``."""

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
class Table2Study(Study):
    """The paper's table 2: test accuracy with learned and fixed augmentation. Days on one GPU at full size."""

    dataset: str = "cifar10"
    """cifar10 or cifar100 (torchvision's files), or the path of an .npz with x_train, y_train, x_test, y_test."""
    space: str = "wl"
    """wl, ra, ra-translate, ta-wide, some of one as "wl[rotate,color]", or a .json file."""
    policies: tuple[str, ...] = (
        "none",
        "flip-crop",
        "flip-crop-cutout",
        "uniform-augment",
        "rand-augment",
        "trivial-augment",
        "ola",
    )
    """none, flip-crop, flip-crop-cutout (what all the others do besides), uniform-augment, rand-augment,
    trivial-augment, ola; ola-untrained is what ola does before it has learned anything, with the same plain batches in
    between."""
    network: str = "wrn-28-10"
    """wrn-28-10, wrn-16-2, cnn, ..."""
    epochs: int = 200
    """Passes over the training data, in examples drawn."""
    batch_size: int = 256
    """Examples in an SGD step."""
    step_size: float = 0.1
    """Of SGD at the start; it goes down to 0 on a cosine."""
    subset: int | None = None
    """Train on so many examples only."""
    seeds: int = 5
    """Runs per policy."""
    rand_augment: tuple[int, int] | None = None
    """Operations and strength of rand-augment; by default what its paper found for WRN-28-10, 3 at strength 5 for
    cifar10 and 2 at 14 for others."""
    device: str | None = None
    """cpu or cuda; by default a GPU if there is one."""
    precision: Literal["float32", "bfloat16"] | None = None
    """By default bfloat16 on a GPU, float32 on a CPU."""
    out: Path = Path("runs/table2")
    """Folder of the results file, and of the runs' own; the same command goes on with what is not in it."""
    download: bool = False
    """Let torchvision fetch data that are not there."""

    command: ClassVar[str] = "reproduce table2"
    columns: ClassVar[tuple[str, ...]] = ("test_accuracy", "operations", "seconds")

    @property
    def results(self) -> Path:
        """See :class:`Study`."""
        return self.out / "table2.jsonl"

    @property
    def resolved_device(self) -> str:
        """The device in force."""
        import torch

        return self.device or ("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def processes(self) -> int:
        """Runs at a time: one on a GPU, unless told otherwise."""
        on_gpu = self.workers is None and self.resolved_device.startswith("cuda")
        return 1 if on_gpu else super().processes

    def jobs(self) -> Sequence[Job]:
        """See :class:`Study`."""
        from agents.studies.table2.jobs import table2_jobs
        from gar_env.data import load_dataset
        from gar_env.envs.options import check_device

        load_dataset(self.dataset, download=self.download)
        device = self.resolved_device
        check_device(device)
        return table2_jobs(
            self.policies,
            seeds=self.seeds,
            dataset=self.dataset,
            space=self.space,
            network=self.network,
            epochs=self.epochs,
            batch_size=self.batch_size,
            step_size=self.step_size,
            subset=self.subset,
            rand_augment=self.rand_augment,
            device=device,
            precision=self.precision or ("bfloat16" if device.startswith("cuda") else "float32"),
            out=self.out,
        )

    def opening(self, jobs: Sequence[Job]) -> str:
        """See :class:`Study`."""
        return (
            f"{len(jobs)} runs, {sum(job.steps for job in jobs):,} steps in all: {len(self.policies)} policies, "
            f"{self.seeds} seeds, {self.network} on {self.resolved_device}."
        )

    def report(self, rows: Sequence[Row], console: Console) -> None:
        """See :class:`Study`."""
        from agents.measures.tables import show
        from agents.studies.table2.jobs import table2_table

        show(table2_table(rows), console, self.markdown)
        console.print(
            f"Results: {self.results}. Runs: {self.out}. Plots of what ola learned: gar-env plot RUN", soft_wrap=True
        )
