"""A toy whose rows end apart: walks of their own lengths, each with its own random stream."""

from __future__ import annotations

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector.utils import batch_space

from gar_env.envs import Outcome, RowVectorEnv


class WalksVectorEnv(RowVectorEnv):
    """Every row walks by what its action says and its own noise, for as many steps as it has drawn.

    ``breaks`` names the law that a broken one breaks.
    """

    rows_end_together = False
    breaks = ""
    space = Discrete(3)

    def __init__(self, num_envs=4, **options):
        super().__init__(num_envs, **options)
        self.single_action_space = self.space
        self.action_space = batch_space(self.space, num_envs)
        self.single_observation_space = Box(-np.inf, np.inf, (2,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.generators = [torch.Generator() for _ in range(num_envs)]
        self.place, self.left = torch.zeros(num_envs), torch.zeros(num_envs, dtype=torch.int64)

    def start(self, rows, seeds):
        numbers = rows.nonzero().flatten().tolist()
        assert len(numbers) == len(seeds)
        for row, seed in zip(numbers, seeds, strict=True):
            self.generators[row].manual_seed(seed)
            self.left[row] = torch.randint(2, 6, (), generator=self.generators[row])
            self.place[row] = torch.randn((), generator=self.generators[row])
        if self.breaks == "a mask touches others":
            self.place = self.place + 1

    def advance(self, actions, live):
        noise = torch.stack([torch.randn((), generator=g) if on else torch.zeros(()) for g, on in self.drawing(live)])
        step = actions.float().view(self.num_envs, -1).sum(1) - 1 + noise
        if self.breaks == "rows lean on each other":
            step = step + 0.1 * actions.float().mean()
        self.place = torch.where(live, self.place + step, self.place)
        self.left = self.left - live.long()
        return Outcome(-self.place.abs(), self.left <= 0, {"place": (self.place.clone(), True)})

    def drawing(self, live):
        if self.breaks == "one stream for all":
            return [(self.generators[0], on) for on in live]
        return list(zip(self.generators, live, strict=True))

    def observe(self):
        return torch.stack([self.place, self.left.float()], 1)

    def blank_infos(self):
        return {"place": (float("nan"), False)}


class ContinuousWalksVectorEnv(WalksVectorEnv):
    space = Box(-1, 1, (1,), np.float32)


gymnasium.register("Test/Walks-v0", vector_entry_point=f"{__name__}:WalksVectorEnv")
gymnasium.register("Test/ContinuousWalks-v0", vector_entry_point=f"{__name__}:ContinuousWalksVectorEnv")
