"""``gar-env reproduce controllers``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import tyro

from agents.studies.study import Study

if TYPE_CHECKING:
    from rich.console import Console

    from agents.jobs.job import Job
    from agents.jobs.results import Row


@dataclass(frozen=True, kw_only=True)
class ControllersStudy(Study):
    """Stable-Baselines3's algorithms on data splits, or PPO on data weights, beside fixed baselines."""

    study: tyro.conf.Positional[Literal["splits", "weights"]]
    """splits: which are drawn from. weights: which wrong labels are dropped."""
    dataset: str = "digits"
    """digits, or the path of an .npz with x_train, y_train, x_test, y_test."""
    seeds: int = 5
    """Runs per controller."""
    arms: tuple[str, ...] = ()
    """Controllers; all of the study by default."""
    network: str = "fc_bn"
    """What is trained."""
    corrupt: str | None = None
    """What is wrong with the data; the environment's own by default. For weights: "asymmetric_noise(0.3)"."""
    step_size: float | None = None
    """Of its training; the environment's own by default."""
    learning_rate: float | None = None
    """Of controllers that learn; their own by default."""
    batch_size: int = 128
    """Slots."""
    steps: int = 300
    """Environment steps per run."""
    out: Path = Path("runs/controllers")
    """Folder of the results file; the same command goes on with what is not in it."""
    download: bool = False
    """Let torchvision fetch data that are not there."""

    command: ClassVar[str] = "reproduce controllers"

    @property
    def results(self) -> Path:
        """See :class:`Study`."""
        return self.out / f"{self.study}.jsonl"

    def jobs(self) -> Sequence[Job]:
        """See :class:`Study`."""
        from agents.studies.controllers.jobs import controller_jobs
        from gar_env.data import load_dataset

        load_dataset(self.dataset, download=self.download)
        chosen = {"network": self.network, "corrupt": self.corrupt, "step_size": self.step_size}
        return controller_jobs(
            self.study,
            dataset=self.dataset,
            seeds=self.seeds,
            num_envs=self.batch_size,
            num_steps=self.steps,
            arms=self.arms or None,
            env_options={name: value for name, value in chosen.items() if value is not None},
            agent_options={} if self.learning_rate is None else {"learning_rate": self.learning_rate},
        )

    def report(self, rows: Sequence[Row], console: Console) -> None:
        """See :class:`Study`."""
        from agents.jobs.results import check_columns
        from agents.measures.tables import show
        from agents.studies.controllers.jobs import COLUMNS, controllers_table

        rows = check_columns(self.results, list(rows), COLUMNS[self.study])
        show(controllers_table(rows, self.study), console, self.markdown)
        console.print(f"Results: {self.results}", soft_wrap=True)
