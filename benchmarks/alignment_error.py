"""Largest error of every way of alignment against one backward pass per example, in float64 and float32.

    python benchmarks/alignment_error.py [--seeds 20]

Relative to the largest entry of each result, over the network cases of the tests and ``--seeds`` random draws each; the
oracle always runs in float64, on the same numbers. "materialised": per-example weight gradients wherever they can be.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from cases import CASES, Case  # pyright: ignore[reportMissingImports]
from gar_env.alignment import align, choice, record
from gar_env.alignment.ways import Way
from gar_env.errors import UnsupportedLayerError
from oracles import derivative_by_backward, share_by_backward  # pyright: ignore[reportMissingImports]

COLUMNS: dict[str, tuple[Way, float]] = {
    "hooks": ("hooks", 0.0),
    "materialised": ("hooks", 1e9),
    "forward": ("forward", 0.0),
    "finite difference": ("finite_difference", 0.0),
}


def error(case: Case, seed: int, dtype: torch.dtype, column: str) -> float:
    """Largest difference over largest entry; NaN if the finite difference was refused for its own estimate."""
    way, choice.LARGEST = COLUMNS[column]
    choice.LARGEST_LINEAR = choice.LARGEST
    share = way == "hooks" and case.batch_norm
    network, inputs, direction, loss = case.build(seed, dtype)
    tape = record(network, inputs, loss, way=way, batch_norm="share" if way == "hooks" else "derivative")
    try:
        found = align(tape, direction).double()
    except UnsupportedLayerError:
        return float("nan")
    network, inputs, direction, loss = case.build(seed, dtype)
    wide = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    direction = {name: tensor.double() for name, tensor in direction.items()}
    expected = (share_by_backward if share else derivative_by_backward)(network.double(), wide, loss, direction)
    return float((found - expected).abs().max() / expected.abs().max())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cells = [(column, dtype) for column in COLUMNS for dtype in (torch.float64, torch.float32)]
    print(f"{'case':<40}" + "".join(f"{column:>18}{'float32':>9}" for column in COLUMNS))
    worst = torch.zeros(len(cells))
    for case in CASES:
        errors = torch.tensor([[error(case, s, dtype, column) for s in range(args.seeds)] for column, dtype in cells])
        largest = errors.nan_to_num(-1).amax(1)
        worst = torch.maximum(worst, largest)
        print(f"{case.name:<40}" + line(largest))
    print(f"{f'largest of {len(CASES)} cases':<40}" + line(worst))


def line(values: torch.Tensor) -> str:
    """One number a column."""
    pairs = values.view(-1, 2).tolist()
    return "".join(f"{wide:>18.1e}{narrow:>9.1e}" for wide, narrow in pairs)


if __name__ == "__main__":
    main()
