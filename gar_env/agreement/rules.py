"""Rules from the Gram matrix of updates to weights: all that is said about N tasks, N^2 numbers say.

Index legend: ``G_ij = < g_i, g_j >`` of updates ``g``; ``w_i`` the weight of task ``i`` in ``sum_i w_i g_i``.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gar_env.errors import ConfigurationError, MissingExtraError
from gar_env.registry import Registry, check_positive, shown


class AgreementRule(ABC):
    """A rule without a scale: what it returns is normalised by whoever asks.

    Example:
        >>> gram = torch.tensor([[1.0, 0.5, -0.5], [0.5, 1.0, 0.0], [-0.5, 0.0, 1.0]], dtype=torch.float64)
        >>> build_agreement_rule("agreement")(gram).tolist()
        [0.3333333333333333, 0.5, 0.16666666666666666]
    """

    compares: bool = True
    """Whether it compares tasks with each other, and so needs two."""

    reads_updates: bool = False
    """Whether an environment shows it the tasks' own updates, as the paper does, and not the meta-gradients that are
    combined. They differ in MAML."""

    @abstractmethod
    def __call__(self, gram: Tensor) -> Tensor:
        """Weights ``[N]``.

        Args:
            gram: float64 ``[N, N]``, finite, symmetric.
        """


AGREEMENT_RULES: Registry[type[AgreementRule]] = Registry("agreement rule")
register_agreement_rule = AGREEMENT_RULES.register


def build_agreement_rule(rule: str | AgreementRule) -> AgreementRule:
    """A rule by its name, with a number in brackets if it has one: ``"damped(0.01)"``; ``"torchjd:MGDA"`` is TorchJD's.

    Raises:
        ConfigurationError: If it is no rule, or its number is out of range.
        UnknownNameError: If no rule is called so.
        MissingExtraError: If TorchJD is asked for and not installed.
    """
    if isinstance(rule, AgreementRule):
        return rule
    found = re.fullmatch(r"([^()\s]+)(?:\(([^()]*)\))?", rule) if isinstance(rule, str) else None
    if found is None:
        raise ConfigurationError(
            f"rule={shown(rule)} must be an AgreementRule, or one of {', '.join(AGREEMENT_RULES)}."
        )
    name, number = found[1], found[2]
    try:
        numbers = [] if number is None else [float(number)]
    except ValueError:
        raise ConfigurationError(f"rule={shown(rule)}: {shown(number)} is no number. Write damped(0.1).") from None
    if name.startswith("torchjd:"):
        return TorchJD(name.removeprefix("torchjd:"), *numbers)
    kind: Any = AGREEMENT_RULES[name]
    if len(numbers) > len(getattr(kind, "__dataclass_fields__", ())):
        raise ConfigurationError(f"rule={shown(rule)}: {name} has no number. Leave it out.")
    return kind(*numbers)


@register_agreement_rule("uniform")
@dataclass(frozen=True)
class Uniform(AgreementRule):
    """``w_i = 1 / N``."""

    compares = False

    def __call__(self, gram: Tensor) -> Tensor:
        """See :class:`AgreementRule`."""
        return torch.full_like(gram[0], 1 / len(gram))


@register_agreement_rule("agreement")
@dataclass(frozen=True)
class Agreement(AgreementRule):
    """``w_i = sum_j G_ij / sum_k |sum_j G_kj|``: a task counts as much as it agrees with the sum of all.

    Itself included: ``G_ii`` is in it, so of updates that hardly agree it is the share of squared length. Weights can
    be negative: that climbs a task's loss. All are 0 where every update is orthogonal to the sum, as two opposite ones
    of one length are.

    Source:
        Eshratifar, Eigen & Pedram (2018), algorithm 1 and equation 8.
    """

    reads_updates = True

    def __call__(self, gram: Tensor) -> Tensor:
        """See :class:`AgreementRule`."""
        s = gram.sum(1)
        # What is left of numbers that cancel is rounding, and no agreement.
        s = torch.where(s.abs() > 1e-12 * gram.abs().sum(1), s, 0)
        total = s.abs().sum()
        return s / total if total > 0 else s


@register_agreement_rule("agreement_others")
@dataclass(frozen=True)
class AgreementOthers(AgreementRule):
    """:class:`Agreement` without ``G_ii``: how much a task agrees with the others."""

    reads_updates = True

    def __call__(self, gram: Tensor) -> Tensor:
        """See :class:`AgreementRule`."""
        return Agreement()(gram - torch.diag(gram.diagonal()))


@register_agreement_rule("damped")
@dataclass(frozen=True)
class Damped(AgreementRule):
    """``w = (G + strength mean_i(G_ii) I)^-1 1``: the mean, damped along directions in which tasks are loud.

    With a large strength uniform, with none the point of least length.

    Args:
        strength: Above 0.
    """

    strength: float = 0.1

    def __post_init__(self) -> None:
        check_positive("strength", self.strength)

    def __call__(self, gram: Tensor) -> Tensor:
        """See :class:`AgreementRule`."""
        scale = gram.diagonal().mean()
        if not scale > 0:
            return torch.zeros_like(gram[0])
        identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        return torch.linalg.solve(gram / scale + self.strength * identity, torch.ones_like(gram[0]))


@register_agreement_rule("pcgrad")
@dataclass(frozen=True)
class PCGrad(AgreementRule):
    """The mean of updates, each without its part against any other.

    Task ``i`` meets the others in the order ``i + 1, i + 2, ...``; the paper draws an order.

    Source:
        Yu et al. (2020), "Gradient Surgery for Multi-Task Learning", algorithm 1.
    """

    def __call__(self, gram: Tensor) -> Tensor:
        """See :class:`AgreementRule`."""
        n = len(gram)
        rows = torch.arange(n, device=gram.device)
        shares = torch.eye(n, dtype=gram.dtype, device=gram.device)  # row i: what is left of g_i, in terms of all g
        for step in range(1, n):
            others = (rows + step) % n
            products = (shares * gram[others]).sum(1)
            lengths = gram.diagonal()[others]
            back = torch.where((products < 0) & (lengths > 0), products / lengths.clamp_min(1e-300), 0)
            shares[rows, others] -= back
        return shares.mean(0)


class TorchJD(AgreementRule):
    """A weighting of TorchJD that reads the Gram matrix: ``MGDA``, ``UPGrad``, ``CAGrad``, ``IMTLG``, and others.

    Args:
        name: Without the "Weighting" at its end.
        *numbers: Its first argument, if it needs one: ``"torchjd:CAGrad(0.5)"``.

    Raises:
        MissingExtraError: If TorchJD, or something that it needs, is not installed.
        ConfigurationError: If it has no such weighting, or that cannot be built.

    Source:
        Quinton & Rey (2024), "Jacobian Descent for Multi-Objective Optimization", and its library.
    """

    def __init__(self, name: str, *numbers: float) -> None:
        try:
            from torchjd import aggregation
        except ImportError as error:
            raise MissingExtraError(
                f"rule='torchjd:{name}' needs TorchJD. Install it with: pip install 'gar-env[agreement]'"
            ) from error
        known = [
            other.removesuffix("Weighting")
            for other in dir(aggregation)
            if other.endswith("Weighting") and other != "Weighting"
        ]
        if name not in known:
            raise ConfigurationError(f"TorchJD has no weighting {shown(name)}. It has {', '.join(known)}.")
        self.name = name
        try:
            self._weighting = getattr(aggregation, f"{name}Weighting")(*numbers)
            self._weighting(torch.eye(3))
        except ImportError as error:
            raise MissingExtraError(f"rule='torchjd:{name}': {error}") from error
        except Exception as error:  # of somebody's constructor
            raise ConfigurationError(
                f"rule='torchjd:{name}' cannot be used: {type(error).__name__}: {error}"
            ) from error

    def __call__(self, gram: Tensor) -> Tensor:
        """See :class:`AgreementRule`."""
        return self._weighting(gram)
