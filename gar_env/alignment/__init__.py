"""Each example's gradient dotted with one direction, without storing per-example gradients.

=====================================================  ==================================================
layer                                                  rule
=====================================================  ==================================================
Linear, Conv1d, Conv2d, Conv3d, Embedding              output tangent (:mod:`gar_env.alignment.rules`)
BatchNorm1d/2d/3d, GroupNorm, LayerNorm                per-example gradients, at once
any other module that owns parameters                  replayed in forward mode (:mod:`.fallback`)
=====================================================  ==================================================

What the conservation check cannot see: examples mixed up with one another inside a layer whose sums are right.
``record(..., probe=True)`` looks for that. What neither sees: batch statistics computed by hand (``F.batch_norm`` in a
forward of one's own); a module that is replayed then gives the derivative reading inside itself.
"""

from gar_env.alignment.align import BATCH_NORM_READINGS, BatchNormReading, align, record
from gar_env.alignment.direction import Direction, dot, gradient, trainable_parameters
from gar_env.alignment.put_back import put_back
from gar_env.alignment.rules import register_example_gradients, register_output_tangent
from gar_env.alignment.tape import Tape

__all__ = [
    "BATCH_NORM_READINGS",
    "BatchNormReading",
    "Direction",
    "Tape",
    "align",
    "dot",
    "gradient",
    "put_back",
    "record",
    "register_example_gradients",
    "register_output_tangent",
    "trainable_parameters",
]
