"""A toy environment of each kind of rows that share a network or have one each."""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium
import torch
from gymnasium.spaces import Discrete
from torch import nn

from gar_env.envs import Control, Feature, Instance, RunConfig, RunVectorEnv, TaskVectorEnv, Updates
from gar_env.learner import Learner


@dataclass(frozen=True)
class StepsConfig(RunConfig):
    """Options of the toy of runs."""

    first_step_size: float = 0.05


class StepsVectorEnv(RunVectorEnv):
    """Halve, keep or double the step size of a run; runs have lengths of their own."""

    config_class = StepsConfig

    def action(self):
        return Discrete(3)

    @property
    def features(self):
        return (*super().features, Feature("gradient", 0, 1, "x / (1 + x) of the gradient's squared length"))

    def columns(self):
        return [*super().columns(), self.squared / (1 + self.squared)]

    def prepare(self):
        self.squared = torch.zeros(self.num_envs)

    def instance(self, seed, row):
        return Instance(2 + seed % (self.config.num_steps - 1), self.config.first_step_size)

    def control(self, actions):
        return Control(self.step_sizes * 2.0 ** (actions.clamp(0, 2) - 1))

    def seen(self, one, direction, rows):
        squared = one.gradient.dot(one.gradient).nan_to_num(nan=1e30, posinf=1e30)
        self.squared = torch.where(rows, squared, self.squared)


class LinesVectorEnv(TaskVectorEnv):
    """Each task is a line through noise; drop it or count it."""

    def action(self):
        return Discrete(2)

    def build(self, seed):
        return Learner(
            lambda: nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)),
            self.config.training, seed=seed, num_steps=self.config.num_steps, device=self.device,
            loss="squared_error",
        )  # fmt: skip

    def draw(self):
        n, g = self.num_envs, self.data_generator
        slopes, x = torch.randn(n, 1, 1, generator=g), torch.randn(n, 6, 1, generator=g)
        return x, slopes * x

    def adapt(self, tasks):
        gradients, losses = [], []
        network = self.learner.network
        for x, y in zip(*tasks, strict=True):
            moved = {name: p.detach().clone().requires_grad_() for name, p in network.named_parameters()}
            for _ in range(3):
                loss = (torch.func.functional_call(network, moved, (x,)) - y).square().mean()
                steps = torch.autograd.grad(loss, list(moved.values()))
                pairs = zip(moved.items(), steps, strict=True)
                moved = {name: (p - 0.05 * s).detach().requires_grad_() for (name, p), s in pairs}
            gradients.append({name: p.detach() - moved[name].detach() for name, p in network.named_parameters()})
            losses.append(loss.detach())
        stacked = {name: torch.stack([one[name] for one in gradients]) for name in gradients[0]}
        return Updates(stacked, torch.stack(losses))

    def weigh(self, actions):
        return actions / self.num_envs

    def evaluate(self):
        updates = self.adapt(self.draw())
        return {"test_accuracy": float(-updates.losses.mean()), "test_loss": float(updates.losses.mean())}


gymnasium.register("Test/Steps-v0", vector_entry_point=f"{__name__}:StepsVectorEnv")
gymnasium.register("Test/Lines-v0", vector_entry_point=f"{__name__}:LinesVectorEnv")
