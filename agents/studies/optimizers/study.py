"""``gar-env reproduce optimizers``."""

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
class OptimizersStudy(Study):
    """Update rules as formulas: the published ones in small, searches on fresh seeds, cheap rewards, the screen."""

    parts: tuple[str, ...] = ("rules", "search", "rewards", "screen")
    """Of the study."""
    children: tuple[str, ...] = ("digits", "digits-cnn")
    """Of digits, digits-cnn, cifar10 and, for a GPU, wrn-16-2: for rules and the screen; searches are on digits."""
    cifar10: str = "cifar10"
    """Where the images are: an .npz file, or torchvision's."""
    seeds: int = 8
    """Runs of each search; a rule of the table has as many children."""
    proposals: int = 768
    """Rules that each search may propose."""
    rules: int = 500
    """Random rules that rewards and the screen are compared on."""
    device: str = "cpu"
    """Where networks and data live."""
    enumerate: bool = False
    """Instead of all that: judge every function of one group, the table that comes with the package."""
    out: Path = Path("runs/optimizers")
    """Folder of the results; the same command goes on with what is not in it."""

    command: ClassVar[str] = "reproduce optimizers"
    columns: ClassVar[tuple[str, ...]] = ("part", "child", "arm", "seed")

    @property
    def results(self) -> Path:
        """See :class:`Study`."""
        return self.out / ("one_group.jsonl" if self.enumerate else "optimizers.jsonl")

    def jobs(self) -> Sequence[Job]:
        """See :class:`Study`."""
        if self.enumerate:
            from agents.studies.optimizers.enumerate import enumerate_jobs

            return enumerate_jobs(self.out)
        from agents.studies.optimizers.plan import optimizer_jobs

        return optimizer_jobs(self)

    def jobs_after(self, rows: Sequence[Row]) -> Sequence[Job]:
        """See :class:`Study`: the best rule that was found, on other children."""
        from agents.studies.optimizers.plan import transfer_jobs

        return transfer_jobs(self, rows)

    def report(self, rows: Sequence[Row], console: Console) -> None:
        """See :class:`Study`."""
        from agents.measures.tables import show
        from agents.studies.optimizers.tables import exported, tables

        if self.enumerate:
            from agents.studies.optimizers.enumerate import described, table_of
            from gar_env.optimizers.table import FILE, RuleTable

            table_of(rows).save(self.out / FILE)
            show(described(RuleTable.load(self.out / FILE)), console, self.markdown)
            console.print(f"Table: {self.out / FILE}", soft_wrap=True)
            return
        for table in tables(rows):
            show(table, console, self.markdown)
        for line in exported(rows):
            console.print(line, highlight=False, soft_wrap=True)
        console.print(f"Results: {self.results}", soft_wrap=True)
