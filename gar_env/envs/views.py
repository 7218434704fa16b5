"""What the single environments have in common: options that they lack, and infos as Python numbers."""

from __future__ import annotations

from typing import Any

from gar_env.errors import ConfigurationError


def refuse_vector_options(options: dict[str, Any]) -> None:
    """Refuse what only a vector environment has.

    Raises:
        ConfigurationError: If there is such an option.
    """
    for name in ("autoreset_mode", "output"):
        if name in options:
            raise ConfigurationError(
                f"{name} goes with make_vec. make gives a single environment with numpy output, reset by its user."
            )


OF_ROWS = ("reward_if_kept", "token_rewards")
"""Infos that are each row's own: a single view of several rows has them whole."""


def first_row(infos: dict[str, Any], *, ended: bool) -> dict[str, Any]:
    """The first row's infos, as Python numbers; of those that differ by row all, ``[n]``.

    Args:
        infos: Arrays ``[n]``, each with a mask of where it counts.
        ended: Whether the row's episode has: then what is absent is NaN. Before it is left out, for two NaN are not
            equal.
    """
    there = {
        key: value if key in OF_ROWS else value[0].item() for key, value in infos.items() if not key.startswith("_")
    }
    return {key: value for key, value in there.items() if ended or infos[f"_{key}"][0]}
