"""Step-size controllers in ``GAR/StepSize-v0``: fixed weights, weights that are searched for, and schedules."""

from __future__ import annotations

import copy
import math
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from agents.step_sizes.controller import StepSizeController
from agents.step_sizes.forms import FORMS
from agents.step_sizes.reps import Reps, Update, residuals
from agents.step_sizes.schedules import SCHEDULES
from gar_env.errors import ConfigurationError
from gar_env.registry import shown


class StepSizes:
    """What all have in common: they say step sizes, and the environment's ``absolute`` action takes them."""

    features: tuple[str, ...] = ()

    def begin(self, env: VectorEnv) -> None:
        """See :class:`agents.Agent`.

        Raises:
            ConfigurationError: If the environment takes other actions, or does not show what is needed.
        """
        runs: Any = env.unwrapped
        config: Any = getattr(runs, "config", None)
        action = getattr(config, "action", None)
        if action != "absolute":
            found = type(runs).__name__ if action is None else f"{type(runs).__name__} with action={action!r}"
            raise ConfigurationError(
                f"This controller says step sizes, which GAR/StepSize-v0 takes with action='absolute'; found {found}."
            )
        names = list(runs.observation_names)
        missing = [feature for feature in self.features if feature not in names]
        if missing:
            raise ConfigurationError(
                f"This controller needs {', '.join(self.features)}; the environment does not show "
                f"{', '.join(missing)}. Make it with observed={','.join(self.features)!r}, or observed='all'."
            )
        self.places = {feature: names.index(feature) for feature in self.features}
        self.low, self.high = math.log(config.min_step_size), math.log(config.max_step_size)
        self.num_envs = env.num_envs
        self._resets_next = env.metadata.get("autoreset_mode") is AutoresetMode.NEXT_STEP

    def seen(self, observations: Any) -> dict[str, Tensor]:
        """Features by name, ``[R]`` each."""
        self.check_begun()
        table = torch.as_tensor(observations, dtype=torch.float32)
        return {feature: table[:, place] for feature, place in self.places.items()}

    def check_begun(self) -> None:
        """Refuse to go on before :meth:`begin`.

        Raises:
            ConfigurationError: If it was not called.
        """
        if not hasattr(self, "places"):
            raise ConfigurationError("Call begin(env) first: it says how many runs there are, and what they show.")

    def actions(self, log_step_sizes: Tensor) -> np.ndarray:
        """For the environment, float32 ``[R, 1]``."""
        places = (log_step_sizes.double() - self.low) / (self.high - self.low)
        return (2 * places - 1).clamp(-1, 1).float()[:, None].cpu().numpy()


class Controlled(StepSizes):
    """A controller with weights that stay as they are.

    Args:
        controller: With the form, and weights for all rows.
    """

    def __init__(self, controller: StepSizeController) -> None:
        self.controller, self.form = controller, FORMS[controller.form]
        self.features = tuple(dict.fromkeys((*self.form.features, *self.form.reads)))
        self.weights = torch.tensor([controller.weights])

    def begin(self, env: VectorEnv) -> None:
        """See :class:`agents.Agent`.

        Raises:
            ConfigurationError: As :meth:`StepSizes.begin`, or if means are discounted at another rate.
        """
        super().begin(env)
        runs: Any = env.unwrapped
        if self.features and runs.config.decay != self.controller.decay:
            raise ConfigurationError(
                f"The controller was learned with decay={self.controller.decay}; the environment has "
                f"decay={runs.config.decay}. Make it with the same."
            )

    def act(self, observations: Any) -> np.ndarray:
        """See :class:`agents.Agent`."""
        low, high = math.log(self.controller.min_step_size), math.log(self.controller.max_step_size)
        found = self.form.log_step_size(self.weights, self.seen(observations)).clamp(low, high)
        return self.actions(found.expand(self.num_envs))

    def learn(self, rewards: Any, ended: Any, infos: dict[str, Any]) -> None:
        """Nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing changes."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing changes."""


class Scheduled(StepSizes):
    """A schedule: factors of each run's own initial step size, by time alone. It is told how long runs are.

    Args:
        schedule: A registered name: ``"constant"``, ``"exponential"``, ``"waterfall"``, ``"power"``, ``"cosine"``,
            ``"warmup-cosine"``.
    """

    features = ("progress",)

    def __init__(self, schedule: str) -> None:
        self.schedule = SCHEDULES[schedule]

    def begin(self, env: VectorEnv) -> None:
        """See :class:`agents.Agent`."""
        super().begin(env)
        self.runs: Any = env.unwrapped

    def act(self, observations: Any) -> np.ndarray:
        """See :class:`agents.Agent`."""
        factors = self.schedule(self.seen(observations)["progress"])
        initial = torch.tensor([instance.step_size for instance in self.runs.instances])
        return self.actions((initial * factors).clamp_min(1e-30).log())

    def learn(self, rewards: Any, ended: Any, infos: dict[str, Any]) -> None:
        """Nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing changes."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing changes."""


class RepsAgent(StepSizes):
    """Relative entropy policy search: each run is given weights, and scores by how much its log loss has decreased.

    A run that diverges, or gets worse, scores 0. From the scores the best linear guess from the length of the run and
    its initial step size is taken off. After ``rows`` runs the search moves on; runs that began before its last move,
    with weights of the distribution before, go on to their end and do not count.

    Args:
        form: A registered form of controllers.
        rows: Runs for an update; by default as many as there are rows.
        epsilon: Bound on the divergence of an update, in nats.
        seed: Of the samples.
    """

    def __init__(self, form: str = "multiply", *, rows: int | None = None, epsilon: float = 1.0, seed: int = 0) -> None:
        self.name, self.form = form, FORMS[form]
        self.features = tuple(dict.fromkeys((*self.form.features, *self.form.reads, "log_step_size")))
        self.search = Reps(self.form.start, self.form.deviations, epsilon=epsilon, seed=seed)
        self.rows = rows
        if rows is not None:
            self._check_rows(rows)
        self.updates: list[Update] = []
        self.scores: list[float] = []
        """The mean score of the runs behind each update, in nats."""

    def begin(self, env: VectorEnv) -> None:
        """See :class:`agents.Agent`.

        Raises:
            ConfigurationError: As :meth:`StepSizes.begin`, or if there are fewer rows than an update needs.
        """
        super().begin(env)
        self.rows = self.rows or env.num_envs
        self._check_rows(self.rows)
        self.weights = self.search.sample(env.num_envs)
        self._length = torch.zeros(env.num_envs)
        self._first = torch.full((env.num_envs,), math.nan)
        self._over = torch.zeros(env.num_envs, dtype=torch.bool)
        self._begun = torch.full((env.num_envs,), len(self.updates))  # how many updates there were then
        self._done: list[tuple[Tensor, float, float, float]] = []

    def act(self, observations: Any) -> np.ndarray:
        """See :class:`agents.Agent`."""
        seen = self.seen(observations)
        self._first = torch.where(self._length == 0, seen["log_step_size"], self._first)
        return self.actions(self.form.log_step_size(self.weights, seen))

    def learn(self, rewards: Any, ended: Any, infos: dict[str, Any]) -> None:
        """See :class:`agents.Agent`."""
        self.check_begun()
        over = torch.as_tensor(ended, dtype=torch.bool)
        if self._resets_next:  # in this step, those that had ended were only reset
            self._length = torch.where(self._over, -1, self._length)
        self._length = self._length + 1
        self._over = over
        if not bool(over.any()):
            return
        final = infos.get("final_info", infos)
        for row in over.nonzero().flatten().tolist():
            decrease = float(final["log_loss_decrease"][row])
            score = max(decrease, 0.0) if math.isfinite(decrease) else 0.0
            if self._begun[row] == len(self.updates):
                self._done.append((self.weights[row].clone(), score, float(self._length[row]), float(self._first[row])))
        if len(self._done) >= (self.rows or 0):
            self._update()
        count = int(over.sum())
        self.weights[over] = self.search.sample(count)
        self._length[over] = 0
        self._begun[over] = len(self.updates)

    def _update(self) -> None:
        weights, *columns = zip(*self._done, strict=True)
        scores, lengths, first = (np.array(column) for column in columns)
        left = residuals(scores, np.column_stack([np.log(lengths), first]))
        self.updates.append(self.search.update(torch.stack(weights), torch.from_numpy(left)))
        self.scores.append(float(scores.mean()))
        self._done = []

    def controller(self, **options: Any) -> StepSizeController:
        """The middle of what the search has come to.

        Args:
            **options: Of :class:`StepSizeController`.
        """
        low, high = options.get("min_step_size", 0.0), options.get("max_step_size", math.inf)
        start = {"initial_step_size": min(max(0.01, low), high)}
        return StepSizeController(self.name, tuple(self.search.mean.tolist()), **{**start, **options})

    def _check_rows(self, rows: int) -> None:
        fewest = self.search.fewest + 2  # for what is taken off the scores
        if rows < fewest:
            raise ConfigurationError(
                f"There are {rows} runs to an update, and {len(self.search.mean)} weights: it needs {fewest} at least. "
                f"Pass rows={fewest} or more, or a larger num_envs."
            )

    def state_dict(self) -> dict[str, Any]:
        """All that its next samples and updates depend on."""
        return {
            "search": self.search.state_dict(),
            "weights": self.weights.clone(),
            "length": self._length.clone(),
            "first": self._first.clone(),
            "over": self._over.clone(),
            "begun": self._begun.clone(),
            "done": copy.deepcopy(self._done),
            "updates": [tuple(update) for update in self.updates],
            "scores": list(self.scores),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state_dict` of an agent that was built alike."""
        self.search.load_state_dict(state["search"])
        self.weights, self._length, self._first, self._over, self._begun = (
            state[name].clone() for name in ("weights", "length", "first", "over", "begun")
        )
        self._done = [tuple(one) for one in state["done"]]
        self.updates = [Update(*one) for one in state["updates"]]
        self.scores = list(state["scores"])


def learn(
    form: str = "multiply", *, updates: int = 15, rows: int = 64, seed: int = 0, epsilon: float = 1.0, **options: Any
) -> StepSizeController:
    """Learn a controller by relative entropy policy search, in one thread: small networks are not worth more.

    Args:
        form: A registered form: :data:`FORMS`.
        updates: Of the search, with ``rows`` runs each.
        rows: Runs at a time.
        seed: Of runs and samples.
        epsilon: Bound on the divergence of an update, in nats.
        **options: Of ``GAR/StepSize-v0``: ``dataset``, ``network``, ``rule``, ``instances``, ...

    Returns:
        The middle of what the search has come to; its ``learned`` tells from what.

    Raises:
        ConfigurationError: If options contradict each other.
    """
    if isinstance(updates, bool) or not isinstance(updates, int) or updates < 1:
        raise ConfigurationError(f"updates={shown(updates)} must be a whole number, at least 1.")
    for name in ("action", "observed", "test_examples", "num_envs", "autoreset_mode", "output"):
        if name in options:
            raise ConfigurationError(
                f"{name} is set by learn itself{'; pass rows' * (name == 'num_envs')}. Leave it out."
            )
    agent = RepsAgent(form, epsilon=epsilon, seed=seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _learn(agent, updates, rows, seed, options)
    finally:
        torch.set_num_threads(threads)


def _learn(agent: RepsAgent, updates: int, rows: int, seed: int, options: dict[str, Any]) -> StepSizeController:
    fixed = {"action": "absolute", "observed": ",".join(agent.features), "test_examples": 0}
    env = gymnasium.make_vec("GAR/StepSize-v0", num_envs=rows, autoreset_mode="SameStep", **{**options, **fixed})
    observations, _ = env.reset(seed=seed)
    agent.begin(env)
    while len(agent.updates) < updates:
        observations, rewards, terminations, truncations, infos = env.step(agent.act(observations))
        agent.learn(rewards, terminations | truncations, infos)
    runs: Any = env.unwrapped
    config = runs.config
    env.close()
    plain = {name: value for name, value in options.items() if isinstance(value, bool | int | float | str)}
    return agent.controller(
        decay=config.decay,
        min_step_size=config.min_step_size,
        max_step_size=config.max_step_size,
        learned={"updates": updates, "rows": rows, "seed": seed, **plain, "scores": agent.scores},
    )
