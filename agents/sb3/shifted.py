"""Rollouts for environments that pay one step late."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple

import numpy as np
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples

from gar_env.errors import ConfigurationError
from gar_env.state import plain


@plain
class Unpaid(NamedTuple):
    """The last transition, whose reward has not come yet; arguments of :meth:`RolloutBuffer.add`."""

    observations: np.ndarray
    actions: np.ndarray
    episode_starts: np.ndarray
    values: torch.Tensor
    log_probs: torch.Tensor


class ShiftedRolloutBuffer(RolloutBuffer):
    """A rollout buffer in which the reward of step ``t`` pays the action of step ``t - 1``.

    For A2C and PPO with ``reward_timing="next_step"``: ``PPO(..., rollout_buffer_class=ShiftedRolloutBuffer)``.

    Row ``t`` holds the transition of step ``t - 1`` with the reward of step ``t``. The last transition of a rollout
    waits for the next one; in the very first rollout, row 0 is empty. The last action of an episode is never paid: its
    row is left out of training, and the one before it ends its episode, for no reward follows. Rows are only handed
    out when they were paid, so a pass over the buffer can have fewer than ``buffer_size * n_envs``. When training
    diverges, the action before the last is paid ``divergence_reward``.

    Args:
        buffer_size: Steps per rollout, at least 2.
        *args: As :class:`~stable_baselines3.common.buffers.RolloutBuffer`.
        **kwargs: Likewise.

    Raises:
        ConfigurationError: If a rollout is one step: in the first, nothing would be paid.
    """

    def __init__(self, buffer_size: int, *args: Any, **kwargs: Any) -> None:
        if buffer_size < 2:
            raise ConfigurationError(
                f"A rollout of {buffer_size} step holds no paid action: rewards come one step late. Use n_steps of at "
                "least 2."
            )
        self.unpaid: Unpaid | None = None
        super().__init__(buffer_size, *args, **kwargs)

    def reset(self) -> None:
        """Empty the rows; the transition that waits for its reward stays."""
        super().reset()
        self.paid = np.zeros((self.buffer_size, self.n_envs), dtype=bool)

    def add(
        self,
        obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        episode_start: np.ndarray,
        value: torch.Tensor,
        log_prob: torch.Tensor,
    ) -> None:
        """Pay the transition before with ``reward``, and keep this one until its own reward comes."""
        now = Unpaid(np.array(obs), np.array(action), np.array(episode_start, bool), value.clone(), log_prob.clone())
        before = self.unpaid or now  # the very first row has nothing to hold; it is never handed out
        self.paid[self.pos] = ~now.episode_starts if self.unpaid else False
        paid_rewards = np.where(self.paid[self.pos], reward, 0)
        super().add(
            before.observations, before.actions, paid_rewards, before.episode_starts, before.values, before.log_probs
        )
        self.unpaid = now

    def compute_returns_and_advantage(self, last_values: torch.Tensor, dones: np.ndarray) -> None:
        """Generalised advantage estimation over the paid rows.

        The value after the last row is that of the state whose action waits; what SB3 passes belongs to the state after
        it, and is not needed yet. But when the episode has just ended, that action will never be paid.

        Args:
            last_values: Not used.
            dones: Whether the last step ended the episode, ``[n_envs]``.

        Source:
            Schulman et al. (2016), "High-Dimensional Continuous Control Using Generalized Advantage Estimation".
        """
        assert self.unpaid is not None
        next_values = self.unpaid.values.detach().cpu().numpy().flatten()
        # Whether a reward will still come for the transition after this row.
        goes_on = ~self.unpaid.episode_starts & ~np.asarray(dones, bool)
        advantage = np.zeros(self.n_envs, np.float32)
        for row in reversed(range(self.buffer_size)):
            delta = self.rewards[row] + self.gamma * next_values * goes_on - self.values[row]
            advantage = delta + self.gamma * self.gae_lambda * goes_on * advantage
            advantage = np.where(self.paid[row], advantage, 0).astype(np.float32)
            self.advantages[row] = advantage
            goes_on = self.paid[row]
            next_values = self.values[row]
        self.returns = self.advantages + self.values

    def get(self, batch_size: int | None = None) -> Generator[RolloutBufferSamples, None, None]:
        """Paid transitions in random order, in batches.

        Raises:
            ConfigurationError: If no action of this rollout was paid, as with episodes of one step.
        """
        assert self.full
        paid = np.flatnonzero(self.swap_and_flatten(self.paid))
        if not len(paid):
            raise ConfigurationError(
                "No action of this rollout was paid: the last action of an episode never is, and all episodes had one "
                "step. If training diverges at once, lower step_size; else use longer episodes (num_steps), or "
                "reward_timing='same_step'."
            )
        if not self.generator_ready:
            for name in ("observations", "actions", "values", "log_probs", "advantages", "returns"):
                setattr(self, name, self.swap_and_flatten(getattr(self, name)))
            self.generator_ready = True
        order = np.random.permutation(paid)  # noqa: NPY002 - SB3 seeds the global generator, and uses it here
        for start in range(0, len(order), batch_size or len(order)):
            yield self._get_samples(order[start : start + (batch_size or len(order))])
