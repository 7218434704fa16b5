"""Saving and loading a controller together with what it was trained on."""

from __future__ import annotations

import importlib
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import VecNormalize

import gar_env
from agents.files import write_whole
from agents.sb3.checks import check_controller, slots_of
from agents.sb3.vec_env import SB3VecEnv
from gar_env.errors import CheckpointError, GarEnvError


def save_controller(model: BaseAlgorithm, path: str | Path) -> Path:
    """Save an SB3 model, its ``VecNormalize`` statistics, and which environment it belongs to.

    The file is SB3's own zip (``PPO.load`` reads it too) and is written aside first: an interrupted call leaves the
    file that was there.

    Args:
        model: On an :class:`~agents.sb3.SB3VecEnv`.
        path: Ends in ``.zip``; SB3's suffix is added otherwise.

    Returns:
        The path.

    Raises:
        CheckpointError: If the model is on another kind of environment.
    """
    adapter, normalize = slots_of(model), model.get_vec_normalize_env()
    if (
        adapter is None
        or model.get_env() not in (adapter, normalize)
        or getattr(normalize, "venv", adapter) is not adapter
    ):
        raise CheckpointError(
            "save_controller saves models on SB3VecEnv, or on VecNormalize around it. Use model.save(path) for others."
        )
    path = Path(path)
    path = path if path.suffix == ".zip" else path.with_name(path.name + ".zip")
    model.gar_env = {  # pyright: ignore[reportAttributeAccessIssue] - SB3 saves every attribute of a model
        **_identity(adapter),
        "algorithm": f"{type(model).__module__}:{type(model).__qualname__}",
        "normalize": None if normalize is None else pickle.dumps(normalize),
    }
    buffer = io.BytesIO()
    model.save(buffer)
    del model.gar_env  # pyright: ignore[reportAttributeAccessIssue] - a later model.save must not carry old statistics
    write_whole(path, buffer.getvalue())
    return path


def load_controller(path: str | Path, env: SB3VecEnv, **options: Any) -> BaseAlgorithm:
    """Load a controller that :func:`save_controller` saved.

    Unpickles the file's contents: load only files that you trust.

    Args:
        path: The file.
        env: An environment of the same id with the same observations and actions. If the controller was trained with
            ``VecNormalize``, it is wrapped so again, with its statistics.
        **options: Of the algorithm's own ``load``, such as ``device``.

    Raises:
        CheckpointError: If the file is not there, cut short, or belongs to another environment or version.
    """
    if not isinstance(env, SB3VecEnv):
        raise CheckpointError(
            f"load_controller takes an SB3VecEnv, and wraps it as it was; found {type(env).__name__}. Pass "
            "make_sb3_env(...)."
        )
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"No controller at {path}.")
    try:
        # A cut file may still end in a whole zip, that of a tensor inside it; then it has no entry "data".
        with zipfile.ZipFile(path) as archive:
            archive.getinfo("data")
        found = (load_from_zip_file(path, device="cpu")[0] or {}).get("gar_env")
    except Exception as error:  # of zipfile, json, pickle, and what they lead to
        raise CheckpointError(f"{path} is no saved controller, or is cut short: {error}. Save it again.") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} was not written by save_controller. Load it with its algorithm's own load().")
    for key, here in _identity(env).items():
        if found.get(key) != here:
            raise CheckpointError(
                f"{path} belongs to {key}={found.get(key)!r}; here it is {here!r}. "
                + ("Train again, or install that version." if key == "version" else "Make the environment as then.")
            )
    module, _, name = str(found.get("algorithm")).partition(":")
    try:
        algorithm = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{path} holds a {name} of {module}, which cannot be imported: {error}.") from error
    whole: Any = env
    try:
        if found["normalize"] is not None:
            normalize: VecNormalize = pickle.loads(found["normalize"])
            normalize.set_venv(env)
            whole = normalize
        model = algorithm.load(path, env=whole, **options)
    except GarEnvError:
        raise
    except Exception as error:  # of SB3, and of what a damaged file makes of its objects
        raise CheckpointError(
            f"{path} cannot be loaded: {type(error).__name__}: {str(error)[:300]}. It is damaged, or an option does "
            "not fit."
        ) from error
    check_controller(model)
    return model


def _identity(adapter: SB3VecEnv) -> dict[str, Any]:
    slots: Any = adapter.env.unwrapped
    return {
        "version": gar_env.__version__,
        "environment": getattr(adapter.env.spec, "id", type(slots).__name__),
        "observations": list(getattr(slots, "observation_names", ())),
        "actions": str(adapter.action_space),
        "reward_timing": getattr(slots, "reward_timing", None),
    }
