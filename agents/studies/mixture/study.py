"""``gar-env reproduce mixture``."""

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
class MixtureStudy(Study):
    """Mixtures of text sources, noise and repeated text among them: learned with a small target sample, and without."""

    text: str = ""
    """An .npz file with bytes <source>_train and <source>_test; by default the standard library's own code."""
    arms: tuple[str, ...] = ()
    """Some of the mixtures, such as uniform or "target, softmax"; all by default."""
    seeds: int = 5
    """Runs of each."""
    first_seed: int = 0
    """The first of them: options were chosen on seeds from 1000 on."""
    sgd_steps: int = 1200
    """Of a run; a reference batch that is trained on counts."""
    device: str = "cpu"
    """Where networks and data live."""
    out: Path = Path("runs/mixture")
    """Folder of the results file; the same command goes on with what is not in it."""

    command: ClassVar[str] = "reproduce mixture"
    columns: ClassVar[tuple[str, ...]] = ("arm", "seed", "test_loss")

    @property
    def results(self) -> Path:
        """See :class:`Study`."""
        return self.out / "mixture.jsonl"

    def jobs(self) -> Sequence[Job]:
        """See :class:`Study`."""
        from agents.studies.mixture.jobs import ARMS, MixtureJob
        from agents.studies.mixture.sources import mixture_dataset
        from gar_env.errors import ConfigurationError
        from gar_env.registry import check_choice

        mixture_dataset(self.text)  # what is wrong is said once and now
        if self.seeds < 1:
            raise ConfigurationError(f"seeds={self.seeds} must be at least 1.")
        if self.sgd_steps < 2 or self.sgd_steps % 2:
            raise ConfigurationError(f"sgd_steps={self.sgd_steps} must be even, at least 2: some arms take two a time.")
        for arm in self.arms:
            check_choice("arms", arm, tuple(ARMS))
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        return [
            MixtureJob(arm, seed, self.text, self.sgd_steps, self.device)
            for seed in seeds
            for arm in (self.arms or ARMS)
        ]

    def report(self, rows: Sequence[Row], console: Console) -> None:
        """See :class:`Study`."""
        from agents.measures.tables import show
        from agents.studies.mixture.tables import tables

        for table in tables(rows):
            show(table, console, self.markdown)
        console.print(f"Results: {self.results}", soft_wrap=True)
