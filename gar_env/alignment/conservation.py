"""The check behind every call: the examples' entries add up to the batch gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from gar_env.alignment.direction import Direction, dot, norm
from gar_env.alignment.tape import Tape
from gar_env.errors import LostGradientError

# Largest gap between a part's entries and its share of the batch gradient, relative to the size of the entries:
# measured 7e-7 on CPUs in float32 (WRN-16-1, CNN_BN); a lost layer is of the order of 1. CUDA convolutions may round
# to 10 bits.
TOLERANCE = {(torch.float64, "cpu"): 1e-9, (torch.float64, "cuda"): 1e-9, (torch.float32, "cpu"): 1e-4}
COARSE = 1e-2


def check_conservation(tape: Tape, direction: Direction, parts: dict[tuple[str, ...], Tensor]) -> None:
    """Hold each part's sum against ``n`` times the batch gradient's dot product with the direction.

    Raises:
        LostGradientError: With the parameters of each part that does not add up, and both sums.
    """
    tolerance = TOLERANCE.get((tape.losses.dtype, tape.losses.device.type), COARSE)
    covered = {name for names in parts for name in names}
    alone = {(name,): torch.zeros_like(tape.losses) for name in tape.batch_gradient if name not in covered}
    parts = {**parts, **alone}
    # What rounding leaves of a sum that cancels is of the order of the longest vectors involved, not of the sum.
    floor = 1e-2 * tolerance * tape.n * norm(tape.batch_gradient) * norm(direction)
    sums, expected, sizes = [], [], []
    for names, entry in parts.items():
        sums.append(entry.sum())
        expected.append(tape.n * dot({name: tape.batch_gradient[name] for name in names}, direction))
        sizes.append(entry.abs().sum())
    total, wanted = torch.stack(sums), torch.stack(expected)
    # NaN compares as False: divergence is the caller's to report.
    lost = (total - wanted).abs() > tolerance * (torch.stack(sizes) + wanted.abs()) + floor
    if bool(lost.any()):
        found = [
            f"{', '.join(names)} (entries add up to {a:.6g}, the batch gradient to {b:.6g})"
            for names, is_lost, a, b in zip(parts, lost.tolist(), total.tolist(), wanted.tolist(), strict=True)
            if is_lost
        ]
        raise LostGradientError(
            f"The examples' entries do not add up to the batch gradient for {'; '.join(found)}. {tape.why_lost}"
        )
