"""``GAR/DataSplit-v0``: for every example in every batch, choose the split it is drawn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from gymnasium.spaces import Discrete
from torch import Tensor

from gar_env.data import Splits, make_splits
from gar_env.envs.config import SlotConfig
from gar_env.envs.features import LAST_REWARD, PROGRESS, RUNNING_LOSS, Feature, squashed
from gar_env.envs.single import SingleAgentEnv
from gar_env.envs.slots.base import SlotBatch, SlotVectorEnv
from gar_env.seeding import named_generator


@dataclass(frozen=True)
class DataSplitConfig(SlotConfig):
    """Options of ``GAR/DataSplit-v0``: those of :class:`~gar_env.envs.config.SlotConfig`, and how data are split.

    Args:
        splits: ``"equal"`` random parts (the paper), one per ``"class"``, or one per ``"group"``: your own sources.
        num_splits: For ``"equal"``.
        corrupt: ``"split:name(share)"``, comma-separated; ``""`` for nothing. ``None``: ``"0:label_noise"``, and
            nothing for ``"group"``.
    """

    splits: str = "equal"
    num_splits: int = 10
    corrupt: str | None = None


class DataSplitVectorEnv(SlotVectorEnv):
    """Every slot draws its example from the split that its action names.

    Action: ``Discrete(k)``, the split. Observation, float32 ``[n, d]``: :attr:`observation_names`. Reward: what the
    signal pays, raw. Episode: one training run of ``num_steps`` steps; its end is ``terminated``.

    Args:
        num_envs: The batch size.
        **options: Fields of :class:`DataSplitConfig`.

    Example:
        >>> import gymnasium, gar_env
        >>> env = gymnasium.make_vec("GAR/DataSplit-v1", num_envs=32, num_steps=5)
        >>> observations, infos = env.reset(seed=0)
        >>> observations, rewards, terminations, truncations, infos = env.step(env.action_space.sample())
        >>> observations.shape, rewards.shape, env.unwrapped.split_names[:2]
        ((32, 23), (32,), ('0 (label_noise)', '1'))

    Source:
        Mueller, Biedenkapp & Hutter (2021), section 6 and algorithm 1.
    """

    config: DataSplitConfig
    config_class = DataSplitConfig

    def action(self) -> Discrete:
        """The split to draw from."""
        return Discrete(self.num_splits)

    @property
    def features(self) -> tuple[Feature, ...]:
        """See :class:`SlotVectorEnv`."""
        k = self.num_splits
        return (
            PROGRESS,
            RUNNING_LOSS,
            LAST_REWARD,
            *(Feature(f"usage_{i}", 0, 1, "share of all draws so far from this split") for i in range(k)),
            *(Feature(f"last_action_{i}", 0, 1, "1 if the slot's last action was this split") for i in range(k)),
        )

    def make_pool(self, seed: int) -> Splits:
        """See :class:`SlotVectorEnv`."""
        config = self.config
        return make_splits(
            self.dataset,
            named_generator(seed, "labels"),
            kind=config.splits,
            num_splits=config.num_splits,
            corrupt=config.corrupt,
            **self.put_aside,
        )

    def begin(self) -> None:
        """See :class:`SlotVectorEnv`."""
        self._counts = torch.zeros(self.num_splits, device=self.device)
        self._last_action = torch.zeros(self.num_envs, self.num_splits, device=self.device)

    @property
    def splits(self) -> Splits:
        """The data of this episode."""
        return cast(Splits, self.pool)

    @property
    def num_splits(self) -> int:
        """How many splits there are to choose from."""
        return self.splits.num_splits

    @property
    def split_names(self) -> tuple[str, ...]:
        """One name per split; a corrupted one says how."""
        return self.splits.names

    @property
    def corrupted_splits(self) -> tuple[int, ...]:
        """The splits that were corrupted: what a controller should find out, and an oracle knows."""
        return self.splits.corrupted

    @property
    def decisions(self) -> Tensor:
        """How often each split was drawn from so far, ``[k]``."""
        return self._counts

    @property
    def usage(self) -> Tensor:
        """Share of all draws so far from each split, ``[k]``, zeros before the first."""
        return self._counts / self._counts.sum().clamp_min(1)

    def metrics(self) -> dict[str, float]:
        """``usage_i``: share of all draws so far from split ``i``."""
        return {f"usage_{i}": share for i, share in enumerate(self.usage.tolist())}

    def acted(self, actions: Tensor) -> None:
        """See :class:`SlotVectorEnv`."""
        self._last_action = F.one_hot(actions, self.num_splits).float()
        self._counts = self._counts + self._last_action.sum(0)
        if self.dashboard:
            self.dashboard.usage = dict(zip(self.split_names, self.usage.tolist(), strict=True))

    def batch(self, actions: Tensor) -> SlotBatch:
        """An example of each slot's split."""
        return self.gather(self.splits.draw(actions, self.data_generator))

    def draw(self) -> SlotBatch:
        """Examples of all splits alike."""
        return self.gather(self.splits.draw_uniformly(self.num_envs, self.data_generator))

    def columns(self) -> list[float | Tensor]:
        """See :class:`SlotVectorEnv`."""
        return [
            self.progress,
            squashed(self.running_loss),
            self.last_reward,
            self.usage.expand(self.num_envs, -1),
            self._last_action,
        ]


class DataSplitEnv(SingleAgentEnv):
    """The single-agent view of :class:`DataSplitVectorEnv`: one agent chooses for the whole batch.

    Args:
        batch_size: How many slots.
        **options: Fields of :class:`DataSplitConfig`, but for ``autoreset_mode`` and ``output``.
    """

    vector_env_class = DataSplitVectorEnv
