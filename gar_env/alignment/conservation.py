"""The check behind every call: the examples' entries add up to the batch gradient."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gar_env.alignment.direction import RUN, Direction, norm
from gar_env.alignment.tape import Parts, Tape, hint_on_gpus, working_dtype
from gar_env.errors import LostGradientError, NonFiniteGradientError

# Largest gap between a part's entries and its share of the batch gradient, relative to the size of the entries:
# measured 7e-7 on CPUs in float32 (WRN-16-1, CNN_BN); a lost layer is of the order of 1. CUDA convolutions may round
# to 10 bits, mixed precision to 8.
TOLERANCE = {(torch.float64, "cpu"): 1e-9, (torch.float64, "cuda"): 1e-9, (torch.float32, "cpu"): 1e-4}
COARSE = 1e-2

ROUNDED = 2.0**-9
"""Largest relative error of one number in bfloat16; entries are sums of products of such."""

SHORT = 2**14
"""Entries that are copied for the sake of one operation instead of three."""


def add_up(tape: Tape, parts: Parts, direction: Direction) -> Tensor:
    """The sum of all parts, checked against the batch gradient; see :func:`check_conservation`."""
    products = {name: product(g, direction[name]) for name, g in tape.batch_gradient.items()}
    check_conservation(tape, parts, products, norm(tape.batch_gradient) * norm(direction))
    return torch.stack(list(parts.values())).sum(0)


def product(a: Tensor, b: Tensor) -> Tensor:
    """Sum over all entries, a scalar, accumulated in float32 at least."""
    dtype = working_dtype(a)
    a, b = a.reshape(-1).to(dtype), b.reshape(-1).to(dtype)
    if a.numel() <= RUN or a.is_cuda:
        return torch.dot(a, b)  # not sum(a * b): no copy of the parameters
    pieces = [torch.dot(x, y) for x, y in zip(a.split(RUN), b.split(RUN), strict=True)]
    return torch.stack(pieces).sum(dtype=torch.float64).to(dtype)


def products_of(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``(<a, a>, <a, b>, <b, b>)``, as :func:`product` has them; of short tensors at once."""
    if a.numel() <= SHORT and a.dtype == b.dtype and a.dtype.itemsize >= 4:
        both = torch.stack([a.reshape(-1), b.reshape(-1)])
        aa, ab, _, bb = torch.mm(both, both.T).view(4).unbind()
        return aa, ab, bb
    return product(a, a), product(a, b), product(b, b)


def _tolerance(tape: Tape) -> float:
    return COARSE if tape.low_precision else TOLERANCE.get((tape.coarsest, tape.losses.device.type), COARSE)


def adds_up(tape: Tape, entry: Tensor, wanted: Tensor) -> bool:
    """Whether one part's entries add up to ``wanted``. Waits for the device."""
    return bool((entry.sum() - wanted).abs() <= _tolerance(tape) * (entry.abs().sum() + wanted.abs()))


def check_conservation(tape: Tape, parts: Parts, products: Mapping[str, Tensor], scale: Tensor) -> None:
    """Hold each part's sum against ``n`` times the batch gradient's dot product with the direction.

    Args:
        tape: The recorded pass.
        parts: Its entries.
        products: ``< batch gradient, direction >`` of each parameter alone, scalars.
        scale: Length of the batch gradient times length of the direction.

    Raises:
        LostGradientError: With the parameters of each part that does not add up, and both sums.
        NonFiniteGradientError: With the parameters where a product is NaN or infinite.
    """
    tolerance = _tolerance(tape)
    count = tape.losses.numel()
    covered = {name for names in parts for name in names}
    alone = {(name,): torch.zeros_like(tape.losses) for name in products if name not in covered}
    parts = {**parts, **alone}
    entries = torch.stack([entry.reshape(-1) for entry in parts.values()])
    total, sizes = entries.sum(1), entries.abs().sum(1)
    expected = [sum((products[name] for name in names[1:]), products[names[0]]) for names in parts]
    wanted = (count * torch.stack(expected)).to(total.dtype)
    finite = total.isfinite() & wanted.isfinite()
    # What rounding leaves of a sum that cancels is of the order of the longest vectors involved, not of the sum.
    floor = 1e-2 * tolerance * count * scale.to(total.dtype)
    lost = (total - wanted).abs() > tolerance * (sizes + wanted.abs()) + floor
    if tape.error is not None and tape.exact:
        # The errors of n entries are as good as independent: their sum is one draw of their common length.
        missed = (total.sum() - wanted.sum()).abs() / entries.sum(0).norm().clamp_min(1e-30)
        tape.error = max(ROUNDED, float(missed))
    if bool((finite & ~lost).all()):
        return
    if not bool(finite.all()):
        infinite = [names for names, is_finite in zip(parts, finite.tolist(), strict=True) if not is_finite]
        raise NonFiniteGradientError(tuple(name for names in infinite for name in names))
    if tape.exact:
        found = [
            f"{', '.join(names)} (entries add up to {a:.6g}, the batch gradient to {b:.6g})"
            for names, is_lost, a, b in zip(parts, lost.tolist(), total.tolist(), wanted.tolist(), strict=True)
            if is_lost
        ]
        raise LostGradientError(
            f"The examples' entries do not add up to the batch gradient for {'; '.join(found)}. {tape.why_lost}"
            + hint_on_gpus(tape)
        )
