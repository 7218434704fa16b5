"""What a Stable-Baselines3 algorithm's next steps depend on, as data."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from agents.sb3.checks import adapter_of
from gar_env.errors import CheckpointError
from gar_env.state import attributes, set_attributes

_PROCESS = ("env", "_vec_normalize_env", "_logger", "start_time", "policy")
"""Attributes of a model that belong to this process, or are saved by themselves."""


def model_state(model: BaseAlgorithm, made: Iterable[str]) -> dict[str, Any]:
    """Policy, optimizers, buffers, counters and statistics; between two rollouts.

    Args:
        model: On an :class:`~agents.sb3.SB3VecEnv`.
        made: Names of its attributes when it was built.

    Raises:
        NotDataError: If it keeps something that is no data, and was not built with it.
    """
    open_ = {name: value for name, value in vars(model).items() if _is_known(value)}
    state: dict[str, Any] = {
        "parameters": {name: attrgetter(name)(model).state_dict() for name in _stateful(model)},
        "buffers": {name: attributes(buffer, made=vars(buffer)) for name, buffer in open_.items()},
        "model": attributes(model, made=made, left_out=[*_PROCESS, *open_, *_modules(model)]),
    }
    for name, layer in _layers(model).items():
        state[name] = attributes(layer, made=vars(layer), left_out=("venv", "env"))
        statistics = {key: value for key, value in vars(layer).items() if isinstance(value, RunningMeanStd)}
        state[f"{name} statistics"] = {key: attributes(value) for key, value in statistics.items()}
    return state


def load_model_state(model: BaseAlgorithm, state: dict[str, Any]) -> None:
    """Go on from a :func:`model_state` of a model that was built alike.

    Raises:
        CheckpointError: If it belongs to another algorithm.
    """
    if set(state["parameters"]) != set(_stateful(model)):
        raise CheckpointError(f"The state belongs to another algorithm than {type(model).__name__}.")
    try:
        for name, values in state["parameters"].items():
            attrgetter(name)(model).load_state_dict(values)
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"The state belongs to another policy: {str(error).splitlines()[0]}") from error
    for name, values in state["buffers"].items():
        set_attributes(getattr(model, name), values, shapes=False)
    set_attributes(model, state["model"], shapes=False)
    for name, layer in _layers(model).items():
        set_attributes(layer, state[name], shapes=False)
        for key, values in state[f"{name} statistics"].items():
            set_attributes(getattr(layer, key), values, shapes=False)


def _is_known(value: Any) -> bool:
    """Whether it is a buffer whose attributes are all that there is; others need a state of their own."""
    ours = type(value).__module__.split(".")[0] in ("stable_baselines3", "sb3_contrib", "agents")
    return isinstance(value, BaseBuffer) and ours


def _stateful(model: BaseAlgorithm) -> list[str]:
    """Names of networks and optimizers, as SB3 saves them."""
    return model._get_torch_save_params()[0]


def _modules(model: BaseAlgorithm) -> list[str]:
    """Names of parts of the policy that the model has too."""
    return [name for name, value in vars(model).items() if isinstance(value, torch.nn.Module)]


def _layers(model: BaseAlgorithm) -> dict[str, Any]:
    """The adapter, and the normalisation around it."""
    layers: dict[str, Any] = {"adapter": adapter_of(model)}
    normalize = model.get_vec_normalize_env()
    if isinstance(normalize, VecNormalize):
        layers["normalize"] = normalize
    return {name: layer for name, layer in layers.items() if layer is not None}
