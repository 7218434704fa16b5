"""A module run again, and left as it was."""

from gar_env.functional.copier import UncopiableStateError
from gar_env.functional.graph import nodes_below
from gar_env.functional.kernels import draws_in_cudnn, is_on_gpu, multiplies_in_ten_bits
from gar_env.functional.preserve import call_with, isolated, preserve
from gar_env.functional.snapshot import Autocast, Snapshot
from gar_env.functional.state import State, swapped_in
from gar_env.functional.structure import Structure, structure_of
from gar_env.functional.surroundings import own_surroundings

__all__ = [
    "Autocast",
    "Snapshot",
    "State",
    "Structure",
    "UncopiableStateError",
    "call_with",
    "draws_in_cudnn",
    "is_on_gpu",
    "isolated",
    "multiplies_in_ten_bits",
    "nodes_below",
    "own_surroundings",
    "preserve",
    "structure_of",
    "swapped_in",
]
