"""What training pays a candidate: a function of what it came to, its test accuracy left out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from gar_env.optimizers.children import Trained
from gar_env.registry import Registry


@dataclass(frozen=True)
class ChildReward:
    """What training pays.

    Args:
        of: From what training came to, its test accuracy left out, and the loss of a network that knows nothing in
            nats.
        chance: What a rule is paid that was rejected, from the share that guesses right and that loss.
        whole: Whether the chosen step size trains on; else training ends when it is chosen.
        trains: Whether anything is trained.
    """

    of: Callable[[Trained, float], float]
    chance: Callable[[float, float], float]
    whole: bool = True
    trains: bool = True


CHILD_REWARDS: Registry[ChildReward] = Registry("child reward")


def register_child_reward(
    name: str, *, chance: Callable[[float, float], float], whole: bool = True
) -> Callable[[Callable[[Trained, float], float]], Callable[[Trained, float], float]]:
    """Decorator: pay candidates by a function of what their training came to; see :class:`ChildReward`."""

    def decorate(of: Callable[[Trained, float], float]) -> Callable[[Trained, float], float]:
        CHILD_REWARDS.register(name)(ChildReward(of, chance, whole))
        return of

    return decorate


register_child_reward("validation_accuracy", chance=lambda share, loss: share)(
    lambda one, loss: one.validation_accuracy
)
register_child_reward("one_epoch", chance=lambda share, loss: share, whole=False)(lambda one, loss: one.one_epoch)


@register_child_reward("validation_loss", chance=lambda share, loss: -loss)
def validation_loss(one: Trained, loss: float) -> float:
    """Minus the loss in nats; never below twice that of a network that knows nothing."""
    return max(-one.validation_loss, -2 * loss)


@register_child_reward("nslr", chance=lambda share, loss: -loss, whole=False)
def nslr(one: Trained, loss: float) -> float:
    """Minus the next-step loss after 10 steps, of the best step size; bounded as ``validation_loss``."""
    return max(one.nslr, -2 * loss)


@register_child_reward("gar", chance=lambda share, loss: 0.0, whole=False)
def gar(one: Trained, loss: float) -> float:
    """Gradient alignment of the update over 10 steps, of the best step size: what the next losses fall by, to first
    order."""
    return one.gar if math.isfinite(one.gar) else 0.0


CHILD_REWARDS.register("alignment")(ChildReward(lambda one, loss: 0.0, lambda share, loss: -1.0, trains=False))
CHILD_REWARDS.register("table")(ChildReward(lambda one, loss: 0.0, lambda share, loss: share, trains=False))
