"""Is a finite difference of the forward pass what the backward pass computes? Found out on a copy, with random signs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from gar_env.alignment.backward import backward_of_mean
from gar_env.alignment.direction import trainable_parameters
from gar_env.alignment.inputs import Losses, call, check_losses
from gar_env.alignment.replayed import FiniteDifferenceTape, record_replayed
from gar_env.alignment.separation import Arguments, _copied
from gar_env.errors import UnsupportedLayerError
from gar_env.functional import isolated

SIGNS = 8
"""Backward passes, each with random signs on the losses: the mean square of what they miss is that of the entries."""

LARGEST_GAP = 0.05
"""Beyond this, and three times what rounding explains, the two are different functions."""


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
        The relative error of the entries as a vector, along the batch's gradient; and the type whose machine epsilon
        gives the step.

    Raises:
        UncopiableStateError: If the network holds something that cannot be copied.
        UnsupportedLayerError: If the error is larger than rounding explains, along one of the directions.
    """
    signed, batch_gradient = _signed_gradients(network, inputs, loss)
    device = next(iter(batch_gradient.values())).device
    generator = torch.Generator(device).manual_seed(1)
    drawn = {name: torch.randn(g.shape, generator=generator, device=device) for name, g in batch_gradient.items()}
    directions = [{name: d.to(batch_gradient[name].dtype) for name, d in drawn.items()}, batch_gradient]
    found: list[tuple[float, float, torch.dtype]] = []
    for coarsest in (None, torch.float32):  # float64 networks may compute in float32 inside
        with isolated(network, loss):
            tape = record_replayed(FiniteDifferenceTape, network, tree_map(_copied, inputs), loss, alone=True)
        assert isinstance(tape, FiniteDifferenceTape)
        if coarsest is not None and tape.coarsest is coarsest:
            break
        tape.coarsest, tape.largest_error = coarsest or tape.coarsest, float("inf")
        excess, gap = 0.0, 0.0
        for direction in directions:
            with torch.no_grad():
                (entries,) = tape.entries(direction).values()
            gap = _gap(entries, signed, direction)
            if not math.isfinite(gap):
                return 0.0, tape.coarsest  # divergence, for the caller to see
            excess = max(excess, gap if gap > 3 * tape.rounding else 0.0)
        found.append((excess, gap, tape.coarsest))
        if excess <= LARGEST_GAP:
            break
    excess, gap, coarsest = min(found)
    if excess > LARGEST_GAP:
        raise UnsupportedLayerError(
            f"Finite differences are off by {excess:.2g} times their size from what the backward pass computes: a part "
            "of the network is detached, estimated straight through, scaled by a hook, computed in lower precision, or "
            "too curved for them."
        )
    return gap, coarsest


def _signed_gradients(
    network: nn.Module, inputs: Arguments, loss: Losses
) -> tuple[list[tuple[Tensor, dict[str, Tensor]]], dict[str, Tensor]]:
    """For each draw of signs, the gradient of the signed sum of the losses; and that of their mean."""
    with isolated(network, loss):
        losses = loss(call(network, tree_map(_copied, inputs)))
        check_losses(losses, inputs, per_token=True)
        generator = torch.Generator(losses.device).manual_seed(0)
        signed = []
        for _ in range(SIGNS):
            signs = 2 * torch.randint(2, losses.shape, generator=generator, device=losses.device) - 1
            signed.append((signs, _gradient(network, (losses * signs).sum())))
        batch_gradient, _ = backward_of_mean(network, losses, 1.0, alone=True)
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
