"""Is a finite difference of the forward pass what the backward pass computes? Found out with random signs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from gar_env.alignment.backward import backward_of_mean
from gar_env.alignment.direction import trainable_parameters
from gar_env.alignment.inputs import Losses, call, check_losses
from gar_env.alignment.rerun import FiniteDifferenceTape, record_replayed
from gar_env.alignment.separation import Arguments, copied
from gar_env.errors import UnsupportedLayerError
from gar_env.functional import isolated

SIGNS = 8
"""Backward passes, each with random signs on the losses: the mean square of what they miss is that of the entries."""

MARGIN = 1.5
"""Other directions may be worse than the two that are looked along, and eight signs estimate their error to a third."""

SMALLEST_GAP = 1e-3
"""Up to this, nothing is wrong."""

LARGEST_GAP = 0.02
"""Beyond this in float64, and three times what rounding explains, the two are different functions."""


def check_differences(network: nn.Module, inputs: Arguments, loss: Losses) -> tuple[float, torch.dtype]:
    """Compare differences with gradients, along a random direction and along the batch's gradient.

    For signs ``s``, ``sum_i s_i < grad l_i, d >`` is the gradient of ``sum_i s_i l_i`` dotted with ``d``. What
    ``detach``, straight-through estimators, gradient hooks or float32 inside of a float64 network do is seen here; the
    sum over the batch alone may hide it.

    Args:
        network: In the mode it trains in.
        inputs: A batch.
        loss: From output to losses, ``[n]`` or ``[n, T]``.

    Returns:
        The relative error of the entries as a vector, the larger of both directions, times a margin; and the type
        whose machine epsilon gives the step.

    Raises:
        UncopiableStateError: If the network holds something that cannot be copied.
        UnsupportedLayerError: If the backward pass computes something else: in float64, where neither curvature nor
            rounding explain it, or in the network's own precision if it runs in no other.
    """
    gap, rounding, coarsest = _measure(network, inputs, loss, None)
    if gap <= SMALLEST_GAP or not math.isfinite(gap):
        return MARGIN * gap if math.isfinite(gap) else 0.0, coarsest  # not finite: divergence, for the caller to see
    try:
        exact, *_ = _measure(network, tree_map(_in_float64, inputs), loss, torch.float64)
        # A part that computes in float32 all the same rounds as much as the rest did before.
        apart = exact if exact > LARGEST_GAP and exact > 3 * rounding else 0.0
    except torch.OutOfMemoryError:
        raise
    except Exception:  # it runs in its own precision only
        apart = gap if gap > max(LARGEST_GAP, 3 * rounding) else 0.0
    if apart:
        raise UnsupportedLayerError(
            f"Finite differences are off by {apart:.2g} times their size from what the backward pass computes: a part "
            "of the network is detached, estimated straight through, scaled by a hook, or too curved for them."
        )
    return MARGIN * gap, coarsest


def _in_float64(leaf: object) -> object:
    return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def _measure(
    network: nn.Module, inputs: Arguments, loss: Losses, dtype: torch.dtype | None
) -> tuple[float, float, torch.dtype]:
    """Relative error, the larger of both directions; what rounding explains of it, as estimated; the step's type."""
    signed, batch_gradient = _signed_gradients(network, inputs, loss, dtype)
    device = next(iter(batch_gradient.values())).device
    generator = torch.Generator(device).manual_seed(1)
    drawn = {name: torch.randn(g.shape, generator=generator, device=device) for name, g in batch_gradient.items()}
    with isolated(network, loss, dtype=dtype):
        tape = record_replayed(FiniteDifferenceTape, network, tree_map(copied, inputs), loss, alone=True)
    assert isinstance(tape, FiniteDifferenceTape)
    tape.largest_error = math.inf
    gap, rounding = 0.0, 0.0
    for direction in ({name: d.to(batch_gradient[name].dtype) for name, d in drawn.items()}, batch_gradient):
        with torch.no_grad():
            (entries,) = tape.entries(direction).values()
        gap, rounding = max(gap, _gap(entries, signed, direction)), max(rounding, tape.rounding)
    return gap, rounding, tape.coarsest


def _signed_gradients(
    network: nn.Module, inputs: Arguments, loss: Losses, dtype: torch.dtype | None
) -> tuple[list[tuple[Tensor, dict[str, Tensor]]], dict[str, Tensor]]:
    """For each draw of signs, the gradient of the signed sum of the losses; and that of their mean."""
    with isolated(network, loss, dtype=dtype):
        losses = loss(call(network, tree_map(copied, inputs)))
        check_losses(losses, inputs, per_token=True)
        generator = torch.Generator(losses.device).manual_seed(0)
        signed = []
        for _ in range(SIGNS):
            signs = 2 * torch.randint(2, losses.shape, generator=generator, device=losses.device) - 1
            signed.append((signs, _gradient(network, (losses * signs).sum())))
        batch_gradient, _ = backward_of_mean(trainable_parameters(network), losses, 1.0, alone=True)
    return signed, batch_gradient


def _gradient(network: nn.Module, total: Tensor) -> dict[str, Tensor]:
    parameters = trainable_parameters(network)
    for p in parameters.values():
        p.grad = None
    total.backward(inputs=list(parameters.values()), retain_graph=True)
    found = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in parameters.items()}
    for p in parameters.values():
        p.grad = None
    return found


def _gap(entries: Tensor, signed: list[tuple[Tensor, dict[str, Tensor]]], direction: dict[str, Tensor]) -> float:
    """Root mean square of what the differences miss, over that of what is right; 0 if both are."""
    missed, size = 0.0, 0.0
    for signs, gradient in signed:
        wanted = float(sum((g * direction[name]).sum(dtype=torch.float64) for name, g in gradient.items()))
        missed += (float((signs * entries).sum(dtype=torch.float64)) - wanted) ** 2
        size += wanted**2
    return (missed / size) ** 0.5 if size else float(missed > 0)
