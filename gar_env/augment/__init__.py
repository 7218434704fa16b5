"""Image operations per example in batch, equal to Pillow in every bit; search spaces; plans."""

# Operations and spaces register themselves, spaces after the operations that they name.
from gar_env.augment import geometry, neighbourhood, pointwise, published  # noqa: F401
from gar_env.augment.actions import ActionLayout, Choices
from gar_env.augment.backends import BACKENDS, apply, register_backend, to_image, to_tensor
from gar_env.augment.operation import OPERATIONS, Operation, register_op
from gar_env.augment.plan import Plan, draw_operations
from gar_env.augment.spaces import SPACES, STRENGTHS, Choice, SearchSpace, load_space, register_space
from gar_env.augment.standard import StandardAugmentation

__all__ = [
    "BACKENDS",
    "OPERATIONS",
    "SPACES",
    "STRENGTHS",
    "ActionLayout",
    "Choice",
    "Choices",
    "Operation",
    "Plan",
    "SearchSpace",
    "StandardAugmentation",
    "apply",
    "draw_operations",
    "load_space",
    "register_backend",
    "register_op",
    "register_space",
    "to_image",
    "to_tensor",
]
