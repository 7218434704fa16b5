"""From N updates to one: their Gram matrix, their weights, and the weighed sum."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gar_env.agreement.rules import AgreementRule, build_agreement_rule
from gar_env.errors import ConfigurationError
from gar_env.registry import check_choice, shown

NORMALISATIONS = ("length", "mean", "l1", "none")

TaskUpdates = Mapping[str, Tensor] | Sequence[Mapping[str, Tensor]] | Sequence[Sequence[Tensor]]
"""``{name: [N, ...]}``; or one for each task: ``{name: [...]}``, or its tensors in order."""


def stacked(updates: TaskUpdates) -> dict[str, Tensor]:
    """Updates in any form as ``{name: [N, ...]}``, tensors of whole numbers left out.

    Raises:
        ConfigurationError: If tasks have other names or shapes than the first, or there is nothing.
    """
    if isinstance(updates, Mapping):
        found = dict(updates)
        counts = {len(g) if isinstance(g, Tensor) and g.ndim else None for g in found.values()}
        if len(counts) != 1 or None in counts or 0 in counts:
            raise ConfigurationError(
                f"updates are {shown(updates)}; expected tensors [N, ...], a row for each of as many tasks."
            )
    else:
        found = _put_together(updates)
    real = {name: g for name, g in found.items() if g.is_floating_point()}
    if not real:
        raise ConfigurationError(f"updates are {shown(updates)}; expected tensors of real numbers.")
    return real


def _put_together(updates: Any) -> dict[str, Tensor]:
    if not isinstance(updates, Sequence) or isinstance(updates, str) or not len(updates):
        raise ConfigurationError(f"updates are {shown(updates)}; expected {{name: [N, ...]}}, or one for each task.")
    each: list[dict[str, Any]] = []
    for task, own in enumerate(updates):
        if not isinstance(own, Iterable) or isinstance(own, Tensor | str):
            raise ConfigurationError(
                f"The update of task {task} is {shown(own)}; expected its tensors, by name or in order."
            )
        each.append(dict(own) if isinstance(own, Mapping) else {str(i): g for i, g in enumerate(own)})
    first = each[0]
    for task, own in enumerate(each):
        strange = [name for name, g in own.items() if not isinstance(g, Tensor)]
        if strange or not own:
            what = f"has {shown(own[strange[0]])} for {strange[0]}" if strange else "is empty"
            raise ConfigurationError(f"The update of task {task} {what}; expected tensors.")
        odd = [name for name in [*first, *own] if not _alike(own.get(name), first.get(name))]
        if odd:
            raise ConfigurationError(
                f"The update of task {task} has another {odd[0]} than the first. All must have the same tensors."
            )
    return {name: torch.stack([own[name].detach() for own in each]) for name in first}


def gram(updates: TaskUpdates) -> Tensor:
    """``G_ij = < g_i, g_j >``, float64 ``[N, N]``, summed over all tensors; nothing is put end to end.

    Args:
        updates: See :data:`TaskUpdates`.

    Example:
        >>> gram({"w": torch.tensor([[1.0, 0.0], [1.0, 1.0]])}).tolist()
        [[1.0, 1.0], [1.0, 2.0]]
    """
    return gram_of(stacked(updates))


def gram_of(tensors: Mapping[str, Tensor]) -> Tensor:
    """:func:`gram` of ``{name: [N, ...]}``."""
    rows = [g.detach().reshape(len(g), -1) for g in tensors.values()]
    rows = [g.float() if g.element_size() < 4 else g for g in rows]  # products of half precision overflow
    return torch.stack([(g @ g.T).double() for g in rows]).sum(0)


def task_weights(updates: TaskUpdates, *, rule: str | AgreementRule = "agreement", normalise: str = "l1") -> Tensor:
    """How much each task counts.

    A task whose update is not finite weighs 0, and the others are weighed without it. Where a rule says nothing - all
    weights are 0, as of updates that are all 0 - they are uniform.

    Args:
        updates: ``theta - theta_i`` of each task; see :data:`TaskUpdates`.
        rule: A registered rule, ``"damped(0.01)"``, ``"torchjd:MGDA"``, or one of your own.
        normalise: ``"l1"``: ``sum |w| = 1``, the paper's. ``"length"``: ``sum w_i g_i`` is as long as the mean of all
            ``g_i``. ``"mean"``: ``sum w = 1``. ``"none"``: what the rule says.

    Returns:
        ``[N]``, of the updates' type.

    Raises:
        ConfigurationError: If a rule that compares tasks has only one, or an option is unknown.

    Example:
        >>> updates = {"w": torch.tensor([[1.0, 0.0], [1.0, 0.5], [-2.0, 0.0]])}
        >>> task_weights(updates, rule="damped(0.1)", normalise="length").shape
        torch.Size([3])
    """
    each = stacked(updates)
    return weights_of(gram_of(each), rule, normalise).to(next(iter(each.values())).dtype)


def weights_of(table: Tensor, rule: str | AgreementRule, normalise: str) -> Tensor:
    """:func:`task_weights` of a Gram matrix ``[N, N]``, float64."""
    check_choice("normalise", normalise, NORMALISATIONS)
    built = build_agreement_rule(rule)
    if built.compares and len(table) < 2:
        raise ConfigurationError(
            f"rule={shown(rule)} compares tasks with each other, and there is one. Use more tasks, or rule='uniform'."
        )
    sound = table.diagonal().isfinite()
    own = table[sound][:, sound]
    found = torch.zeros_like(table[0])
    if not len(own):
        return found
    weights = built(own) if len(own) > 1 or not built.compares else torch.ones_like(own[0])
    if not bool(weights.isfinite().all()) or not bool(weights.any()):
        weights = torch.full_like(own[0], 1 / len(own))
    found[sound] = normalised(weights, own, normalise)
    return found


def normalised(weights: Tensor, table: Tensor, normalise: str) -> Tensor:
    """Weights ``[N]`` on a scale; as they are where it has none: a sum or a length that is all but 0."""
    if normalise == "none":
        return weights
    sizes = weights.abs()
    if normalise == "length":
        uniform = torch.full_like(weights, 1 / len(weights))
        scale, wanted = length(weights, table), length(uniform, table)
        most = (sizes * table.diagonal().clamp_min(0).sqrt()).sum()
    else:
        scale, wanted, most = (weights.sum() if normalise == "mean" else sizes.sum()), 1.0, sizes.sum()
    return weights * (wanted / scale) if scale > 1e-6 * most else weights


def length(weights: Tensor, table: Tensor) -> Tensor:
    """``|sum_i w_i g_i|`` from the Gram matrix."""
    return (weights @ table @ weights).clamp_min(0).sqrt()


def combine(updates: TaskUpdates, weights: Any) -> dict[str, Tensor]:
    """``sum_i w_i g_i``, by name; tasks that weigh 0 are left out, whatever their update is.

    Args:
        updates: See :data:`TaskUpdates`.
        weights: ``[N]``.

    Raises:
        ConfigurationError: If there is not one for each task, or one is not finite.

    Example:
        >>> combine({"w": torch.tensor([[1.0], [3.0]])}, torch.tensor([0.5, 0.5]))
        {'w': tensor([2.])}
    """
    each = stacked(updates)
    first = next(iter(each.values()))
    try:
        given = torch.as_tensor(weights, device=first.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigurationError(f"weights are {shown(weights)}; expected {len(first)} numbers, one a task.") from error
    if given.shape != first.shape[:1] or not bool(given.isfinite().all()):
        raise ConfigurationError(f"weights are {shown(weights)}; expected {len(first)} finite numbers, one a task.")
    counts = given != 0
    whole, found = bool(counts.all()), {}
    for name, g in each.items():
        w, rows = (given, g) if whole else (given[counts], g[counts])
        size = math.prod(g.shape[1:])
        found[name] = (w.to(g) @ rows.reshape(len(rows), size)).view(g.shape[1:])
    return found


def _alike(one: Any, other: Any) -> bool:
    return (
        isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape and one.dtype == other.dtype
    )
