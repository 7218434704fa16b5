"""Each example's gradient dotted with one direction, without storing per-example gradients.

=====================================================  ==================================================
layer                                                  rule
=====================================================  ==================================================
Linear, Conv1d, Conv2d, Conv3d, Embedding              output tangent (:mod:`gar_env.alignment.rules`), or
                                                       per-example weight gradients (:mod:`.materialise`)
BatchNorm1d/2d/3d, GroupNorm, LayerNorm                per-example gradients, at once
any other module that owns parameters                  replayed in forward mode (:mod:`.unknown_layers`)
=====================================================  ==================================================

Ways to compute it, and which one is taken: :mod:`gar_env.alignment.ways`.

What the conservation check cannot see: examples mixed up with one another inside a layer whose sums are right.
``probe=True`` looks for that. What neither sees stands in docs/alignment.md, under "what cannot be seen".
"""

from gar_env.alignment.align import align, record
from gar_env.alignment.covering import try_ways
from gar_env.alignment.direction import Direction, dot, gradient, trainable_parameters
from gar_env.alignment.engine import Alignment
from gar_env.alignment.in_backward import NoGradientError, Paid, aligning
from gar_env.alignment.norms import example_lengths
from gar_env.alignment.pairs import pair_products
from gar_env.alignment.rerun import FiniteDifferenceTape
from gar_env.alignment.row_gradients import align_rows
from gar_env.alignment.rules import register_example_gradients, register_output_tangent
from gar_env.alignment.tape import Tape
from gar_env.alignment.ways import BATCH_NORM_READINGS, WAYS, AlignmentPrecision, BatchNormReading, Way, check_way

__all__ = [
    "BATCH_NORM_READINGS",
    "WAYS",
    "Alignment",
    "AlignmentPrecision",
    "BatchNormReading",
    "Direction",
    "FiniteDifferenceTape",
    "NoGradientError",
    "Paid",
    "Tape",
    "Way",
    "align",
    "align_rows",
    "aligning",
    "check_way",
    "dot",
    "example_lengths",
    "gradient",
    "pair_products",
    "record",
    "register_example_gradients",
    "register_output_tangent",
    "trainable_parameters",
    "try_ways",
]
