"""Saving and loading a controller together with what it was trained on: as data, nothing of which is executed."""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from agents import container
from agents.files import write_whole
from agents.sb3.arguments import algorithm_of, arguments_of, build_again
from agents.sb3.checks import adapter_of, check_controller
from agents.sb3.vec_env import SB3VecEnv
from gar_env.errors import CheckpointError, GarEnvError
from gar_env.registry import shown
from gar_env.state import attributes, set_attributes

NORMALISATION = ("training", "norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon")
COUNTERS = ("num_timesteps", "_n_updates", "_episode_num", "_current_progress_remaining")


def save_controller(model: BaseAlgorithm, path: str | Path) -> Path:
    """Save an SB3 model, its ``VecNormalize`` statistics, and which environment it belongs to.

    The file holds numbers, text and tensors; SB3's own ``model.save`` holds pickles. It is written aside first: an
    interrupted call leaves the file that was there.

    Args:
        model: On an :class:`~agents.sb3.SB3VecEnv`.
        path: Ends in ``.gar``; that suffix is added otherwise.

    Returns:
        The path.

    Raises:
        CheckpointError: If the model is on another kind of environment.
    """
    adapter, normalize = adapter_of(model), model.get_vec_normalize_env()
    if (
        adapter is None
        or model.get_env() not in (adapter, normalize)
        or getattr(normalize, "venv", adapter) is not adapter
    ):
        raise CheckpointError(
            "save_controller saves models on SB3VecEnv, or on VecNormalize around it. Use model.save(path) for others."
        )
    path = Path(path)
    path = path if path.suffix == ".gar" else path.with_name(path.name + ".gar")
    state = {
        "arguments": arguments_of(model),
        "parameters": {name: attrgetter(name)(model).state_dict() for name in model._get_torch_save_params()[0]},
        "counters": {name: getattr(model, name) for name in COUNTERS if hasattr(model, name)},
        "normalize": None if normalize is None else _normalisation(normalize),
    }
    header = {**_identity(adapter), "algorithm": type(model).__name__}
    write_whole(path, container.packed("controller", header, state))
    return path


def load_controller(
    path: str | Path, env: SB3VecEnv, *, algorithm: type[BaseAlgorithm] | None = None, **options: Any
) -> BaseAlgorithm:
    """Load a controller that :func:`save_controller` saved.

    Args:
        path: The file; nothing in it is executed.
        env: An environment of the same id with the same observations and actions. If the controller was trained with
            ``VecNormalize``, it is wrapped so again, with its statistics.
        algorithm: The class, if it is neither Stable-Baselines3's nor sb3-contrib's.
        **options: In place of what it was built with, such as ``device``; what is no data, a schedule for example, has
            to be given again.

    Raises:
        CheckpointError: If the file is not there, cut short, or belongs to another environment.
    """
    if not isinstance(env, SB3VecEnv):
        raise CheckpointError(
            f"load_controller takes an SB3VecEnv, and wraps it as it was; found {type(env).__name__}. Pass "
            "make_sb3_env(...)."
        )
    path = Path(path)
    header = container.read_header(path, "controller")
    for key, here in _identity(env).items():
        if header.get(key) != here:
            raise CheckpointError(
                f"{path} belongs to {key}={shown(header.get(key))}; here it is {here!r}. Make the environment as then."
            )
    kind = algorithm or algorithm_of(str(header.get("algorithm")))
    if kind is None or kind.__name__ != header.get("algorithm"):
        raise CheckpointError(
            f"{path} holds a {header.get('algorithm')}, which is no algorithm of Stable-Baselines3 or sb3-contrib. "
            "Pass its class: load_controller(path, env, algorithm=...)."
        )
    state = container.read_state(path, "controller")
    try:
        whole: Any = env if state["normalize"] is None else _normalised(env, state["normalize"])
        model = build_again(kind, whole, state["arguments"], {"device": "cpu", **options})
        if set(state["parameters"]) != set(model._get_torch_save_params()[0]):
            raise CheckpointError(f"{path} does not hold all that a {kind.__name__} has learned.")
        for name, values in state["parameters"].items():
            if name not in model._get_torch_save_params()[0]:
                raise CheckpointError(f"{path} holds {name!r}, which a {kind.__name__} does not have.")
            attrgetter(name)(model).load_state_dict(values)
        for name in COUNTERS:
            if name in state["counters"]:
                setattr(model, name, type(getattr(model, name))(state["counters"][name]))
    except GarEnvError:
        raise
    except Exception as error:  # of SB3, and of what a damaged file makes of its objects
        raise CheckpointError(
            f"{path} cannot be loaded: {type(error).__name__}: {str(error)[:300]}. It is damaged, or an option does "
            "not fit."
        ) from error
    check_controller(model)
    return model


def _normalisation(normalize: VecNormalize) -> dict[str, Any]:
    statistics = {name: value for name, value in vars(normalize).items() if isinstance(value, RunningMeanStd)}
    return {
        "options": {name: getattr(normalize, name) for name in NORMALISATION},
        "statistics": {name: attributes(value) for name, value in statistics.items()},
    }


def _normalised(env: SB3VecEnv, saved: dict[str, Any]) -> VecNormalize:
    normalize = VecNormalize(env, **{name: saved["options"][name] for name in NORMALISATION})
    for name in ("obs_rms", "ret_rms"):
        if name in saved["statistics"]:
            set_attributes(getattr(normalize, name), saved["statistics"][name])
    return normalize


def _identity(adapter: SB3VecEnv) -> dict[str, Any]:
    unwrapped: Any = adapter.env.unwrapped
    return {
        "environment": getattr(adapter.env.spec, "id", type(unwrapped).__name__),
        "observations": list(getattr(unwrapped, "observation_names", ())),
        "actions": str(adapter.action_space),
        "reward_timing": getattr(unwrapped, "reward_timing", None),
    }
