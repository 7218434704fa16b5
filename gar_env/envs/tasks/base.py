"""Task environments: one row is a task of the meta-batch, and all rows share the network that is adapted to each."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from gar_env.alignment.row_gradients import align_rows
from gar_env.envs.config import SharedConfig
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

    Subclasses say what tasks come next (:meth:`draw`), what adapting to them comes to (:meth:`adapt`, which moves
    nothing) and how much each counts (:meth:`weigh`); this class moves the network along the weighed mean of the tasks'
    gradients, by the optimizer of the options, and pays each task with its agreement with the next meta-batch.

    With ``reward_timing="same_step"`` the meta-batch that pays is a step of training too, with equal weights.

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

    @abstractmethod
    def draw(self) -> Any:
        """The next ``num_envs`` tasks; drawn from :attr:`data_generator`."""

    @abstractmethod
    def adapt(self, tasks: Any) -> Updates:
        """Adapt a copy of the network to each task."""

    @abstractmethod
    def weigh(self, actions: Tensor) -> Tensor:
        """How much each task counts, ``[n]``."""

    def open(self, seed: int) -> None:
        """See :class:`SharedNetworkEnv`."""
        self.data_generator = named_generator(seed, "data", self.device)
        self._unpaid: Updates | None = None

    def take(self, actions: Tensor) -> tuple[Tensor, Tensor | None]:
        """See :class:`SharedNetworkEnv`."""
        updates = self.adapt(self.draw())
        if self.config.reward_timing == "next_step":
            paid, self._unpaid = self._unpaid, updates
            rewards = self._pay(paid, updates) if paid else None
            self._move(updates, self.weigh(actions))
            return updates.losses.mean(), rewards
        self._move(updates, self.weigh(actions))
        following = self.adapt(self.draw())
        rewards = self._pay(updates, following)
        self._move(following, None)
        return updates.losses.mean(), rewards

    def _move(self, updates: Updates, weights: Tensor | None) -> None:
        parameters = dict(self.learner.network.named_parameters())
        for name, g in _mean(updates, weights).items():
            parameters[name].grad = g
        self.learner.update()

    def _pay(self, paid: Updates, following: Updates) -> Tensor:
        direction = _mean(following, None)
        alignment = align_rows(paid.gradients, direction) if Need.ALIGNMENT in self.signal.needs else None
        evidence = Evidence(self.num_envs, following.losses.mean(), alignment=alignment, next_gradient=direction)
        return self.evaluator.rewards(evidence, step=self.steps + 1)


def _mean(updates: Updates, weights: Tensor | None) -> Mapping[str, Tensor]:
    """The weighed mean of the tasks' gradients."""
    if weights is None:
        return {name: g.mean(0) for name, g in updates.gradients.items()}
    return {name: (weights.view(-1, *(1,) * (g.ndim - 1)) * g).mean(0) for name, g in updates.gradients.items()}
