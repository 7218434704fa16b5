"""What an example's reward will be, predicted from what its slot shows: those predicted too low are dropped."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import VectorEnv
from torch import Tensor, nn

from gar_env.errors import ConfigurationError
from gar_env.functional import own_surroundings
from gar_env.registry import check_positive, shown
from gar_env.seeding import lend_to_global, named_generator

LARGEST = 5.0
"""Targets are cut off at so many root mean squares."""


class ValueRegression:
    """A small network regresses rewards, over their root mean square, on observations; above a threshold is kept.

    It learns of dropped examples too where the environment says what they would have been paid
    (``infos["reward_if_kept"]``, ``pay_dropped=True`` of ``GAR/DataWeight-v1``); else of those that were kept, some of
    them at random. Where the signal is noise, predictions are near 0, and all is kept: unlike a policy gradient, it
    drops for a reason.

    Args:
        num_features: d.
        keep: The action that keeps an example.
        threshold: Of predictions, in root mean squares of the rewards; what is below is dropped.
        explore: Chance that an example is kept whatever is predicted, in [0, 1].
        warmup: Steps at the start of an episode in which all is kept.
        step_size: Of Adam.
        hidden: Units of the one hidden layer.
        memory: Last examples to learn from.
        batch_size: Of them in each update, one a step.
        seed: Of its network and draws.

    Raises:
        ConfigurationError: If an option is out of range.
    """

    def __init__(
        self,
        num_features: int,
        *,
        keep: int = 1,
        threshold: float = -0.15,
        explore: float = 0.05,
        warmup: int = 0,
        step_size: float = 3e-3,
        hidden: int = 32,
        memory: int = 4096,
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        check_positive("step_size", step_size)
        wrong = [
            f"{name}={shown(value)}"
            for name, value, least in (
                *(("hidden", hidden, 1), ("memory", memory, 1), ("batch_size", batch_size, 1)),
                *(("num_features", num_features, 1), ("keep", keep, 1)),
            )
            if type(value) is not int or value < least
        ]
        numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in (threshold, explore))
        fits = numbers and math.isfinite(threshold) and 0 <= explore <= 1 and type(warmup) is int and warmup >= 0
        if wrong or not fits:
            found = wrong[0] if wrong else f"threshold={shown(threshold)}, explore={shown(explore)}, warmup={warmup!r}"
            raise ConfigurationError(
                f"{found}: sizes and keep must be at least 1, threshold finite, explore in [0, 1], warmup at least 0."
            )
        self.keep, self.threshold, self.explore, self.warmup = keep, threshold, explore, warmup
        self.batch_size, self.num_features = batch_size, num_features
        with own_surroundings(), lend_to_global(named_generator(seed, "initialisation")):
            self.network = nn.Sequential(nn.Linear(num_features, hidden), nn.Tanh(), nn.Linear(hidden, 1))
        nn.init.zeros_(self.network[2].weight)  # pyright: ignore[reportArgumentType]
        nn.init.zeros_(self.network[2].bias)  # pyright: ignore[reportArgumentType]
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=step_size)
        self.generator = named_generator(seed, "policy")
        self.memory = torch.zeros(memory, num_features + 1)
        self.filled = self.place = self.steps = 0
        self.square, self.count = 0.0, 0
        self._shown: Tensor | None = None
        self._kept: Tensor | None = None

    def begin(self, env: VectorEnv) -> None:
        """See :class:`agents.Agent`. What was learned stays; what is remembered is of another network, and goes.

        Raises:
            ConfigurationError: If the environment shows something else, or pays late.
        """
        box, space = env.single_observation_space, env.single_action_space
        if not isinstance(box, Box) or box.shape != (self.num_features,) or not isinstance(space, Discrete):
            raise ConfigurationError(
                f"Value regression takes {self.num_features} features and drops or keeps; the environment shows "
                f"{shown(box)} and takes {shown(space)}. Use it on GAR/DataWeight-v1."
            )
        if getattr(env.unwrapped, "reward_timing", "same_step") != "same_step":
            raise ConfigurationError("Value regression needs reward_timing='same_step'.")
        self.filled = self.place = self.steps = 0

    @torch.no_grad()
    def act(self, observations: Any) -> Tensor:
        """int64 ``[n]``: :attr:`keep`, or 0."""
        seen = self._shown = torch.as_tensor(observations).detach().to("cpu", torch.float32, copy=True)
        wanted = self.network(seen)[:, 0] > self.threshold
        lucky = torch.rand(len(seen), generator=self.generator) < self.explore
        kept = self._kept = wanted | lucky | (self.steps < self.warmup)
        return kept.long() * self.keep

    @own_surroundings()
    def learn(self, rewards: Any, ended: Any, infos: Mapping[str, Any]) -> None:
        """Remember what was paid for what was shown, and take one step of the regression."""
        if self._shown is None or self._kept is None:
            raise ConfigurationError("learn() was called before act().")
        self.steps += 1
        if "reward_if_kept" in infos:
            given = torch.as_tensor(infos["reward_if_kept"]).detach().to("cpu", torch.float32)
            known = torch.as_tensor(infos["_reward_if_kept"]).to("cpu", torch.bool) & given.isfinite()
        else:
            given, known = torch.as_tensor(rewards).detach().to("cpu", torch.float32), self._kept
            if "reward_valid" in infos:
                known = known & torch.as_tensor(infos["reward_valid"]).to("cpu", torch.bool)
        if not bool(known.any()):
            return self._end(ended)
        seen, values = self._shown[known], given[known]
        self.square += float(values.double().square().sum())
        self.count += len(values)
        for row in torch.cat([seen, values[:, None]], 1).split(len(self.memory)):
            places = (self.place + torch.arange(len(row))) % len(self.memory)
            self.memory[places] = row
            self.place = int((self.place + len(row)) % len(self.memory))
            self.filled = min(len(self.memory), self.filled + len(row))
        size = max((self.square / self.count) ** 0.5, 1e-30)
        chosen = self.memory[torch.randint(self.filled, (self.batch_size,), generator=self.generator)]
        targets = (chosen[:, -1] / size).clamp(-LARGEST, LARGEST)
        with torch.enable_grad():
            loss = F.mse_loss(self.network(chosen[:, :-1])[:, 0], targets)
            self.optimizer.zero_grad()
            loss.backward()
        self.optimizer.step()
        self._end(ended)

    def _end(self, ended: Any) -> None:
        """What is remembered is of a network whose episode is over."""
        if ended is not None and bool(torch.as_tensor(ended).all()):
            self.filled = self.place = self.steps = 0

    def state_dict(self) -> dict[str, Any]:
        """All that its next actions and updates depend on."""
        return {
            "network": {name: value.clone() for name, value in self.network.state_dict().items()},
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "generator": self.generator.get_state(),
            "memory": self.memory.clone(),
            "counts": [self.filled, self.place, self.steps, self.count],
            "square": self.square,
            "shown": None if self._shown is None else self._shown.clone(),
            "kept": None if self._kept is None else self._kept.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state_dict`, bit for bit on the CPU."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.generator.set_state(state["generator"])
        self.memory.copy_(state["memory"])
        self.filled, self.place, self.steps, self.count = (int(count) for count in state["counts"])
        self.square, self._shown, self._kept = float(state["square"]), state["shown"], state["kept"]
