"""Task environments: one row is a task of the meta-batch, and all rows share the network that is adapted to each."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from gar_env.agreement import combine
from gar_env.alignment.row_gradients import align_rows
from gar_env.envs.config import SharedConfig
from gar_env.envs.outcome import Infos, Outcome
from gar_env.envs.shared import SharedNetworkEnv
from gar_env.learner import Learner
from gar_env.rewards import Evidence, Need
from gar_env.seeding import named_generator
from gar_env.state import plain


@plain
class Updates(NamedTuple):
    """What adapting the network to each task came to.

    Args:
        gradients: ``{name: [n, ...]}``: each task's meta-gradient, where Reptile's is ``theta - theta_task``.
        losses: ``[n]``, each task's loss after adapting.
    """

    gradients: dict[str, Tensor]
    losses: Tensor


class TaskVectorEnv(SharedNetworkEnv):
    """``num_envs`` tasks of one meta-batch; one episode is one meta-training run.

    A meta-batch is drawn, adapted to at the present network, and shown; the actions say how much each task counts; the
    network moves along the weighed mean of the tasks' meta-gradients, by the optimizer of the options; the next
    meta-batch is adapted to there, pays, and is shown. With ``reward_timing="next_step"`` the same rewards come one
    step later.

    Subclasses say what tasks come next (:meth:`draw`), what adapting to them comes to (:meth:`adapt`, which moves
    nothing) and how much each counts (:meth:`weigh`).

    A task whose update is not finite weighs nothing and is paid 0, and ``infos["update_finite"]`` says so; the others
    go on.

    Args:
        num_envs: Tasks in a meta-batch.
        **options: Fields of :attr:`config_class`.

    Raises:
        ConfigurationError: If options contradict each other, or the signal needs what cannot be given.

    Source:
        Eshratifar, Eigen & Pedram (2018), "Gradient Agreement as an Optimization Objective for Meta-Learning".
    """

    config_class: ClassVar[Any] = SharedConfig

    provides = Need.ALIGNMENT | Need.NEXT_GRADIENT | Need.NEXT_LOSS
    """``alignment [n]`` is ``< g_i, mean gradient of the next meta-batch >``, at the network after the step."""

    learner: Learner

    shown: Any
    """What adapting to the present meta-batch came to: :class:`Updates`, or more."""

    finite: Tensor
    """bool ``[n]``: whose update in :attr:`shown` is."""

    @abstractmethod
    def draw(self) -> Any:
        """The next ``num_envs`` tasks; drawn from :attr:`data_generator`."""

    @abstractmethod
    def adapt(self, tasks: Any) -> Any:
        """Adapt a copy of the network to each task.

        Returns:
            :class:`Updates`, or another named tuple with ``gradients`` and ``losses``.
        """

    @abstractmethod
    def weigh(self, actions: Tensor) -> Tensor:
        """How much each task of :attr:`shown` counts in ``sum_i w_i g_i``, ``[n]``."""

    def evidence(self, following: Any) -> Evidence:
        """What the step is paid by; :attr:`shown` is what was paid for.

        Args:
            following: The next meta-batch, adapted to at the network after the step.
        """
        direction = combine(following.gradients, self.next_finite / self.next_finite.sum().clamp_min(1))
        alignment = align_rows(self.shown.gradients, direction) if Need.ALIGNMENT in self.signal.needs else None
        loss = following.losses.nanmean()
        return Evidence(self.num_envs, loss, alignment=alignment, next_gradient=direction)

    def open(self, seed: int) -> None:
        """See :class:`SharedNetworkEnv`."""
        self.data_generator = named_generator(seed, "data")
        self._due: Tensor | None = None

    def begin(self) -> None:
        """See :class:`SharedNetworkEnv`."""
        self.tasks = self.draw()
        self.shown = self.adapt(self.tasks)
        self.finite = finite_rows(self.shown.gradients)

    def take(self, actions: Tensor) -> tuple[Tensor, Tensor | None]:
        """See :class:`SharedNetworkEnv`."""
        finite = self.finite
        weights = torch.where(finite, self.weigh(actions), 0)
        loss = self.shown.losses[finite].mean()  # NaN if there is none: training has diverged
        self.move(weights)
        tasks = self.draw()
        following = self.adapt(tasks)
        self.next_finite = finite_rows(following.gradients)
        rewards = torch.where(finite, self.pay(following, weights), 0)
        self.was_finite, self.tasks, self.shown, self.finite = finite, tasks, following, self.next_finite
        if self.config.reward_timing == "next_step":
            rewards, self._due = self._due, rewards
        return loss, rewards

    def move(self, weights: Tensor) -> None:
        """One step of the optimizer along ``sum_i w_i g_i``; none if all weights are 0."""
        if not bool(weights.any()):
            self.learner.steps += 1  # the schedule goes on
            return
        parameters = dict(self.learner.network.named_parameters())
        for name, g in combine(self.shown.gradients, weights).items():
            parameters[name].grad = g
        self.learner.update()

    def pay(self, following: Any, weights: Tensor) -> Tensor:
        """Rewards ``[n]``."""
        evidence = self.evidence(following)
        return self.evaluator.rewards(evidence, step=self.steps + 1, finite=self.finite & self.next_finite.any())

    def advance(self, actions: Tensor, live: Tensor) -> Outcome:
        """See :meth:`RowVectorEnv.advance`; with ``update_finite``."""
        outcome = super().advance(actions, live)
        return outcome._replace(infos={**outcome.infos, "update_finite": (self.was_finite.clone(), True)})

    def blank_infos(self) -> Infos:
        """See :meth:`RowVectorEnv.blank_infos`."""
        return {**super().blank_infos(), "update_finite": (False, False)}


def finite_rows(gradients: dict[str, Tensor]) -> Tensor:
    """bool ``[n]``: whose numbers are finite, and not too large for their own square."""
    return torch.stack([g.square().reshape(len(g), -1).sum(1) for g in gradients.values()]).sum(0).isfinite()
