"""Largest error of every alignment rule against one backward pass per example, in float64 and float32.

    python benchmarks/alignment_error.py [--seeds 20]

Relative to the largest entry of each result, over the network cases of the tests and ``--seeds`` random draws each.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import cast

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from cases import CASES, Case  # pyright: ignore[reportMissingImports]
from gar_env.alignment import BatchNormReading, align, record
from oracles import derivative_by_backward, share_by_backward  # pyright: ignore[reportMissingImports]


def error(case: Case, seed: int, dtype: torch.dtype, reading: str) -> float:
    """Largest difference over largest entry; the oracle always runs in float64, on the same numbers."""
    network, inputs, direction, loss = case.build(seed, dtype)
    found = align(record(network, inputs, loss, batch_norm=cast(BatchNormReading, reading)), direction).double()
    network, inputs, direction, loss = case.build(seed, dtype)
    wide = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    direction = {name: tensor.double() for name, tensor in direction.items()}
    oracle = share_by_backward if reading == "share" and case.batch_norm else derivative_by_backward
    expected = oracle(network.double(), wide, loss, direction)
    return float((found - expected).abs().max() / expected.abs().max())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'case':<40}{'share, float64':>16}{'float32':>10}{'derivative, float64':>22}{'float32':>10}")
    worst = [0.0] * 4
    columns = [(reading, dtype) for reading in ("share", "derivative") for dtype in (torch.float64, torch.float32)]
    for case in CASES:
        errors = [max(error(case, s, dtype, reading) for s in range(args.seeds)) for reading, dtype in columns]
        worst = [max(pair) for pair in zip(worst, errors, strict=True)]
        print("{:<40}{:>16.1e}{:>10.1e}{:>22.1e}{:>10.1e}".format(case.name, *errors))
    print("{:<40}{:>16.1e}{:>10.1e}{:>22.1e}{:>10.1e}".format("largest", *worst))


if __name__ == "__main__":
    main()
