"""The paper's table 2: test accuracy of networks trained with learned and with fixed augmentation.

Every policy trains on the same number of examples, in the same loop of ``GAR/Augment-v0``. Fixed policies augment every
batch; the learned one every second, as in the paper: the batches in between are plain, train the network too, and pay
the policy. ``ola-untrained`` has the same batches in between, and never learns: what learning is worth is the
difference to it. ``flip-crop-cutout`` is what they all do besides, without a policy.

The paper: WRN-28-10, 200 epochs, batches of 256, step size 0.1 on a cosine, weight decay 5e-4. Its numbers are not
repeated here; run the command on a GPU for yours.

Source:
    Mueller, Biedenkapp & Hutter (2021), table 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import gymnasium
from rich.console import Console

import gar_env  # noqa: F401 - registers the environments
from agents.controllers import CONTROLLERS
from agents.jobs.provenance import data_fingerprint, fingerprint, provenance
from agents.jobs.results import Row
from agents.measures.intervals import summarise
from agents.measures.tables import Table
from agents.training.config import TrainConfig
from agents.training.training import Training
from gar_env.augment import load_space
from gar_env.data import load_dataset
from gar_env.envs import AugmentConfig
from gar_env.errors import ConfigurationError
from gar_env.registry import check_choice

# Fixed policies: every batch is augmented, and nothing is paid (nslr needs no tape).
_EVERY_BATCH = {"reward_timing": "next_step", "reward": "nslr"}
_INTERLEAVED = {"reward_timing": "same_step", "reference": "plain"}


@dataclass(frozen=True)
class Arm:
    """One row of the table.

    Args:
        agent: A registered controller.
        env: Options of ``GAR/Augment-v0``.
    """

    agent: str
    env: dict[str, Any]


ARMS = {
    "none": Arm("no-augmentation", {**_EVERY_BATCH, "crop_padding": 0, "flip": False, "cutout": 0}),
    "flip-crop": Arm("no-augmentation", {**_EVERY_BATCH, "cutout": 0}),
    "flip-crop-cutout": Arm("no-augmentation", _EVERY_BATCH),
    "uniform-augment": Arm("uniform-augment", _EVERY_BATCH),
    "rand-augment": Arm("rand-augment", _EVERY_BATCH),
    "trivial-augment": Arm("trivial-augment", _EVERY_BATCH),
    "ola": Arm("ola", {**_INTERLEAVED, "reward": "gar"}),
    "ola-untrained": Arm("random-augment", {**_INTERLEAVED, "reward": "nslr"}),
}
UNAUGMENTED = "flip-crop-cutout"
ROWS = 200  # of progress.csv in a run
CHECKPOINTS, FEWEST_STEPS_BETWEEN = 50, 100


@dataclass(frozen=True)
class Table2Job:
    """One policy for one seed; see :class:`~agents.jobs.job.Job`.

    Args:
        policy: A name in ``ARMS``.
        seed: Of environment and controller.
        dataset: Name or path.
        num_envs: Batch size.
        sgd_steps: In all.
        env_options: Of ``GAR/Augment-v0``, for all policies.
        agent_options: Of the controller.
        out: Folder of all runs.
    """

    policy: str
    seed: int
    dataset: str
    num_envs: int
    sgd_steps: int
    env_options: dict[str, Any]
    out: Path
    agent_options: dict[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Of the environment: half as many, if every second batch is plain."""
        return self.sgd_steps // 2 if ARMS[self.policy].env["reward_timing"] == "same_step" else self.sgd_steps

    @property
    def options(self) -> dict[str, Any]:
        """Of the environment."""
        return {"dataset": self.dataset, "num_steps": self.steps, **self.env_options, **ARMS[self.policy].env}

    @property
    def identity(self) -> Row:
        """The run, and a fingerprint of all that could change its result but the device."""
        env = {**self.options, "dataset": data_fingerprint(self.dataset)}
        env.pop("device", None)
        env["space"] = load_space(self.options["space"]).to_json()  # a file's content, not its name
        config = fingerprint([env, ARMS[self.policy].agent, self.agent_options, self.num_envs])
        return {"policy": self.policy, "seed": self.seed, "config": config}

    @property
    def folder(self) -> Path:
        """Of this run: metrics, checkpoint, what its policy learned."""
        device = self.env_options["device"].replace(":", "")  # a checkpoint goes on where it was made
        return self.out / f"{self.policy}-{self.seed}-{self.identity['config']}-{device}"

    def run(self, on_step: Callable[[], None]) -> Row:
        """Train, or go on from the run's checkpoint."""
        agent = ARMS[self.policy].agent
        config = TrainConfig(
            env_options=AugmentConfig(**self.options),
            agent_options=CONTROLLERS[agent](**self.agent_options),
            env="GAR/Augment-v0",
            agent=agent,
            num_envs=self.num_envs,
            seed=self.seed,
            out=self.folder,
            log_every=max(1, self.steps // ROWS),
            checkpoint_every=max(FEWEST_STEPS_BETWEEN, self.steps // CHECKPOINTS),
            tensorboard=False,
        )
        resume = (self.folder / "checkpoint.gar").exists()
        training = _Counted(config, Console(quiet=True), resume=resume, count=on_step)
        finished = training.run()
        applied = {name: round(value, 4) for name, value in finished.items() if name.startswith("applied_")}
        return {
            "dataset": load_dataset(self.dataset).name,
            "num_envs": self.num_envs,
            "sgd_steps": self.sgd_steps,
            "network": self.env_options["network"],
            "space": self.env_options["space"],
            "test_accuracy": None if finished["diverged"] else finished["test_accuracy"],
            "operations": finished["operations"],
            **applied,
            "resumed": resume,
            "seconds": round(training.seconds, 2),
            **provenance(),
        }


@dataclass
class _Counted(Training):
    """Tells the parent process of every step; saves and stops at the first signal, whatever comes after it."""

    count: Callable[[], None] = lambda: None
    counted: int = field(default=0, init=False)

    def on_step(self) -> None:
        super().on_step()
        while self.counted < self.session.steps:  # those before a resume at once
            self.counted += 1
            self.count()

    def _differences(self, saved: Row, here: Row) -> list[str]:
        # The folder's name stands for the content of data and search space, whatever their files are called now.
        for config in (saved, here):
            config["env_options"] = {k: v for k, v in config["env_options"].items() if k not in ("dataset", "space")}
        return super()._differences(saved, here)

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        self.stop = True


def table2_jobs(
    policies: Sequence[str],
    *,
    seeds: int,
    dataset: str,
    space: str,
    network: str,
    epochs: int,
    batch_size: int,
    step_size: float,
    out: Path,
    subset: int | None = None,
    rand_augment: tuple[int, int] | None = None,
    device: str = "cpu",
    precision: str = "float32",
) -> list[Table2Job]:
    """All runs, one seed after the other; arguments as of ``gar-env reproduce table2``.

    Raises:
        ConfigurationError: If an option is out of range, or a policy has no such name.
        GarEnvError: Whatever building an environment and the controllers raises.
    """
    if seeds < 1 or epochs < 1 or batch_size < 1:
        raise ConfigurationError(f"seeds={seeds}, epochs={epochs} and batch_size={batch_size} must be at least 1.")
    if not policies:
        raise ConfigurationError(f"There are no policies. Name some of {', '.join(ARMS)}.")
    for policy in policies:
        check_choice("policies", policy, ARMS)
    data = load_dataset(dataset)
    examples = len(data.x_train) if subset is None else subset
    n, m = rand_augment or ((3, 5) if len(data.classes) == 10 else (2, 14))
    env_options = {
        "network": network,
        "space": space,
        "subset": subset,
        "inputs": "standardised",
        "step_size": step_size,
        "weight_decay": 5e-4,
        "schedule": "cosine",
        "device": device,
        "precision": precision,
        "channels_last": not network.startswith("fc"),
    }
    jobs = [
        Table2Job(
            policy,
            seed,
            dataset,
            batch_size,
            -(-epochs * examples // (2 * batch_size)) * 2,  # an even number: some train in pairs
            env_options,
            out,
            {"n": n, "m": m} if policy == "rand-augment" else {},
        )
        for seed in range(seeds)
        for policy in policies
    ]
    # A wrong option is said once and now, not by every worker.
    env = gymnasium.make_vec("GAR/Augment-v0", num_envs=batch_size, **{**jobs[0].options, "device": "cpu"})
    for job in jobs[: len(policies)]:
        AugmentConfig(**job.options)
        CONTROLLERS[ARMS[job.policy].agent](**job.agent_options).build(env, seed=0).begin(env)
    env.close()
    return jobs


def table2_table(rows: Sequence[Row]) -> Table:
    """Test accuracy, means over seeds with 95 % bootstrap intervals, and the policy's part of it.

    The gain is over ``flip-crop-cutout``, seed by seed: the same training without any policy.
    """
    table = Table(
        "Table 2: test accuracy",
        [
            "policy",
            "test accuracy",
            "over flip-crop-cutout",
            "operations per augmented image",
            "minutes per run",
            "seeds",
            "diverged",
        ],
    )
    plain = {row["seed"]: row["test_accuracy"] for row in rows if row["policy"] == UNAUGMENTED}
    for policy in ARMS:
        own = [row for row in rows if row["policy"] == policy]
        if not own:
            continue
        there = {row["seed"]: row["test_accuracy"] for row in own if row["test_accuracy"] is not None}
        accuracy, gain = "", ""
        if there:
            accuracy = summarise(list(there.values())).with_interval(".4f")
        paired = [value - plain[seed] for seed, value in there.items() if plain.get(seed) is not None]
        if paired and policy != UNAUGMENTED:
            gain = summarise(paired).with_interval("+.4f")
        operations = summarise([row["operations"] for row in own]).mean
        minutes = summarise([row["seconds"] / 60 for row in own]).mean
        line = [
            policy,
            accuracy,
            gain,
            f"{operations:.2f}",
            f"{minutes:.1f}",
            str(len(own)),
            str(len(own) - len(there)),
        ]
        table.append(line)
    return table
