"""``gar-env reproduce stepsize``."""

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
class StepSizeStudy(Study):
    """Learn step-size controllers on small digits networks; hold them against schedules, everywhere."""

    tests: tuple[str, ...] = ("digits", "digits-wide", "digits-cnn")
    """What is trained with what was learned: digits, digits-wide, digits-cnn, fashion, fashion-cnn, cifar10."""
    rules: tuple[str, ...] = ("sgd", "rmsprop")
    """Update rules."""
    arms: tuple[str, ...] = ()
    """Some of the controllers, schedules and optimizers, beside the constants, given and learned; all by default."""
    seeds: int = 5
    """Learnings per controller."""
    updates: int = 15
    """Of the search, with 64 runs each."""
    runs: int = 4
    """Test runs from each initial step size."""
    cifar10: str = "cifar10"
    """The .npz of CIFAR-10, or torchvision's by default."""
    out: Path = Path("runs/stepsize")
    """Folder of the results file; the same command goes on with what is not in it."""
    download: bool = False
    """Let torchvision fetch data that are not there."""

    command: ClassVar[str] = "reproduce stepsize"
    columns: ClassVar[tuple[str, ...]] = ("arm", "rule", "seed", "tests", "learning_seconds")

    @property
    def results(self) -> Path:
        """See :class:`Study`."""
        return self.out / "stepsize.jsonl"

    def jobs(self) -> Sequence[Job]:
        """See :class:`Study`."""
        from agents.studies.step_size.jobs import step_size_jobs

        return step_size_jobs(self)

    def jobs_alone(self) -> Sequence[Job]:
        """See :class:`Study`."""
        from agents.studies.step_size.jobs import overhead_jobs

        return overhead_jobs(self)

    def report(self, rows: Sequence[Row], console: Console) -> None:
        """See :class:`Study`."""
        from agents.measures.tables import show
        from agents.studies.step_size.figures import draw
        from agents.studies.step_size.tables import tables

        for table in tables(rows):
            show(table, console, self.markdown)
        for path in draw(rows, self.out):
            console.print(f"Figure: {path}", soft_wrap=True)
        console.print(f"Results: {self.results}", soft_wrap=True)
