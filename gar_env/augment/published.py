"""The search spaces of published methods.

Sources:
    Mueller, Biedenkapp & Hutter (2021), table 3, read against the first author's code of the time: WideLong and
    RandAugment.
    Cubuk et al. (2020): RandAugment. Mueller & Hutter (2021): TrivialAugment.
"""

from __future__ import annotations

from gar_env.augment.spaces import Choice, SearchSpace, register_space


def _common(*, factors: tuple[float, float], fewest_bits: int, rotation: int, shear: float, translation: float):
    """The 14 operations that all published spaces share."""
    low, spread = factors
    return (
        Choice("identity"),
        Choice("auto_contrast"),
        Choice("equalize"),
        Choice("rotate", span=rotation, whole=True, signed=True),
        Choice("solarize", start=256, span=-256, whole=True),
        Choice("color", start=low, span=spread),
        Choice("posterize", start=8, span=fewest_bits - 8, whole=True),
        Choice("contrast", start=low, span=spread),
        Choice("brightness", start=low, span=spread),
        Choice("sharpness", start=low, span=spread),
        Choice("shear_x", span=shear, signed=True),
        Choice("shear_y", span=shear, signed=True),
        Choice("translate_x", span=translation, whole=True, signed=True),
        Choice("translate_y", span=translation, whole=True, signed=True),
    )


_WIDE = _common(factors=(0.01, 1.99), fewest_bits=2, rotation=135, shear=0.99, translation=32)
_EXTRA = (
    Choice("blur"),
    Choice("invert"),
    Choice("flip_lr"),
    Choice("flip_ud"),
    Choice("cutout", span=19.2, whole=True),
)

register_space(SearchSpace("wl", _WIDE + _EXTRA))
# As in the paper's table, and with the wider translation of other implementations.
_RA = {"factors": (0.1, 1.8), "fewest_bits": 4, "rotation": 30, "shear": 0.3}
register_space(SearchSpace("ra", _common(**_RA, translation=10)))
register_space(SearchSpace("ra-translate", _common(**_RA, translation=14.4)))
# The wide ranges without the five extra operations.
register_space(SearchSpace("ta-wide", _WIDE))
