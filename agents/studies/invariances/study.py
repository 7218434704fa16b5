"""``gar-env bench invariances``."""

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
class InvariancesStudy(Study):
    """Which policies find out that flips and large rotations lie? Arrows with a known answer, a minute or two."""

    arms: tuple[str, ...] = ("gar", "nslr", "random", "uniform-augment")
    """Reward signals, learned by the online policy, and the fixed policies random and uniform-augment."""
    seeds: int = 5
    """Runs per arm."""
    batch_size: int = 128
    """Slots."""
    steps: int = 200
    """Environment steps, two SGD steps each."""
    space: str = "wl"
    """Of operations; at least one must be harmful."""
    out: Path = Path("runs/invariances")
    """Folder of the results file; the same command goes on with what is not in it."""

    command: ClassVar[str] = "bench invariances"
    columns: ClassVar[tuple[str, ...]] = (
        "score",
        "score_by_quarter",
        "lies_per_example",
        "operations_per_example",
        "test_accuracy",
    )

    @property
    def results(self) -> Path:
        """See :class:`Study`."""
        return self.out / "invariances.jsonl"

    def jobs(self) -> Sequence[Job]:
        """See :class:`Study`."""
        from agents.studies.invariances.jobs import invariance_jobs

        return invariance_jobs(
            seeds=self.seeds, arms=self.arms, num_envs=self.batch_size, steps=self.steps, space=self.space
        )

    def report(self, rows: Sequence[Row], console: Console) -> None:
        """See :class:`Study`."""
        from agents.measures.tables import show
        from agents.studies.invariances.jobs import invariance_table

        show(invariance_table(rows), console, self.markdown)
        console.print(f"Results: {self.results}", soft_wrap=True)
