"""Controllers that are searched for in ``GAR/StepSize-v0``: each run tries out weights."""

from __future__ import annotations

import copy
import math
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from agents.step_sizes.agents import StepSizes
from agents.step_sizes.controller import StepSizeController
from agents.step_sizes.forms import FORMS
from agents.step_sizes.reps import Reps, Update, residuals
from gar_env.errors import CheckpointError, ConfigurationError
from gar_env.registry import shown


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
            if type(rows) is not int:
                raise ConfigurationError(f"rows={shown(rows)} must be a whole number.")
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
        self.check_begun()
        return {
            "form": self.name,
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
        """Go on from a :meth:`state_dict` of an agent that was built alike.

        Raises:
            CheckpointError: If it is of another form, or of other rows; nothing is changed then.
        """
        self.check_begun()
        if not isinstance(state, dict) or not {"form", "weights", "search"} <= state.keys():
            raise CheckpointError(f"{shown(state)} is no state of a search. Pass what state_dict() gave.")
        if state["form"] != self.name or len(state["weights"]) != self.num_envs:
            raise CheckpointError(
                f"The state is of another search: {state['form']}, {len(state['weights'])} rows; here {self.name}, "
                f"{self.num_envs} rows. Build it alike."
            )
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
    for name in ("action", "observed", "reward", "test_examples", "num_envs", "autoreset_mode", "output"):
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
    plain = {name: value for name, value in options.items() if isinstance(value, bool | int | float | str | tuple)}
    return agent.controller(
        decay=config.decay,
        min_step_size=config.min_step_size,
        max_step_size=config.max_step_size,
        learned={"updates": updates, "rows": rows, "seed": seed, **plain, "scores": agent.scores},
    )
