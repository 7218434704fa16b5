"""``gar-env reproduce agreement``."""

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
class AgreementStudy(Study):
    """Weights of tasks by how they agree: rules at their own outer step sizes and at a common one; corrupted tasks."""

    tasks: str = "sine"
    """sine, omniglot or miniimagenet."""
    data: str = ""
    """An .npz file or a folder with the images; by default torchvision's Omniglot. miniImageNet needs one."""
    parts: tuple[str, ...] = ("tune", "rules", "confound", "corrupted", "signals")
    """Of the study; rules needs what tune found."""
    cases: tuple[str, ...] = ()
    """Some of the protocols, such as reptile-10 or 5-way; all by default."""
    seeds: int = 10
    """Of rules and confound; corrupted and signals take half as many."""
    published: bool = False
    """The published protocol of Omniglot, for a GPU, instead of a small one; miniImageNet has no other."""
    device: str = "cpu"
    """Where networks and data live."""
    num_steps: int | None = None
    """Meta-batches instead of the protocol's, in all parts: for a short look."""
    out: Path = Path("runs/agreement")
    """Folder of the results file; the same command goes on with what is not in it."""
    download: bool = False
    """Let torchvision fetch Omniglot."""

    command: ClassVar[str] = "reproduce agreement"
    columns: ClassVar[tuple[str, ...]] = ("part", "case", "arm", "step_size", "seed", "test_loss")

    @property
    def results(self) -> Path:
        """See :class:`Study`."""
        return self.out / f"{self.tasks}.jsonl"

    def jobs(self) -> Sequence[Job]:
        """See :class:`Study`."""
        from agents.studies.agreement.plan import agreement_jobs

        return agreement_jobs(self)

    def opening(self, jobs: Sequence[Job]) -> str:
        """See :class:`Study`: how long it will take, from a few steps of each kind of run."""
        from agents.studies.agreement.plan import expected

        return expected(self, jobs)

    def jobs_after(self, rows: Sequence[Row]) -> Sequence[Job]:
        """See :class:`Study`."""
        from agents.studies.agreement.plan import rules_jobs

        return rules_jobs(self, rows)

    def report(self, rows: Sequence[Row], console: Console) -> None:
        """See :class:`Study`."""
        from agents.measures.tables import show
        from agents.studies.agreement.tables import tables

        for table in tables(rows):
            show(table, console, self.markdown)
        console.print(f"Results: {self.results}", soft_wrap=True)
