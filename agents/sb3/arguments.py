"""What a Stable-Baselines3 algorithm was built with, as data, and building it again."""

from __future__ import annotations

import inspect
from typing import Any

import sb3_contrib
import stable_baselines3
import torch
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer, RolloutBuffer
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

from agents.sb3.shifted import ShiftedRolloutBuffer
from gar_env.errors import CheckpointError
from gar_env.registry import shown
from gar_env.state import NotDataError, as_data, from_data

_PROCESS = ("self", "policy", "env", "tensorboard_log", "device", "verbose", "_init_setup_model", "rms_prop_eps")
_KNOWN = (RMSpropTFLike, ShiftedRolloutBuffer, RolloutBuffer, ReplayBuffer, MaskableRolloutBuffer)
_CLASSES = {
    **{f"torch.nn.{name}": kind for name, kind in vars(torch.nn).items() if isinstance(kind, type)},
    **{f"torch.optim.{name}": kind for name, kind in vars(torch.optim).items() if isinstance(kind, type)},
    **{kind.__name__: kind for kind in _KNOWN},
}
_NAMES = {id(kind): name for name, kind in reversed(_CLASSES.items())}


def algorithm_of(name: str) -> type[BaseAlgorithm] | None:
    """Of Stable-Baselines3 or sb3-contrib, by the name of its class."""
    for package in (stable_baselines3, sb3_contrib):
        kind = getattr(package, name, None)
        if isinstance(kind, type) and issubclass(kind, BaseAlgorithm):
            return kind
    return None


def arguments_of(model: BaseAlgorithm) -> dict[str, Any]:
    """What it was built with, by paths such as ``policy_kwargs.net_arch``: ``values``, ``classes`` and ``left_out``.

    What is no data - schedules, classes of your own - is left out, and has to be given again.
    """
    aliases = [name for name, kind in model.policy_aliases.items() if kind is model.policy_class]
    given: dict[str, Any] = {"policy": aliases[0] if aliases else model.policy_class}
    for name in inspect.signature(type(model).__init__).parameters:
        if name not in _PROCESS and hasattr(model, name):
            given[name] = _constant(getattr(model, name))
    if "use_rms_prop" in inspect.signature(type(model).__init__).parameters:
        given["use_rms_prop"] = False  # it only puts its class into policy_kwargs, where that stands already
    if "train_freq" in given and hasattr(given["train_freq"], "unit"):
        given["train_freq"] = (given["train_freq"].frequency, given["train_freq"].unit.value)
    flat = {**given, **{f"policy_kwargs.{name}": value for name, value in given.pop("policy_kwargs", {}).items()}}
    flat.pop("policy_kwargs", None)
    found: dict[str, Any] = {"values": {}, "classes": {}, "left_out": {}}
    for path, value in flat.items():
        if isinstance(value, type) and id(value) in _NAMES:
            found["classes"][path] = _NAMES[id(value)]
            continue
        try:
            found["values"][path] = as_data(value)
        except NotDataError:
            found["left_out"][path] = getattr(value, "__name__", type(value).__name__)
    return found


def build_again(
    kind: type[BaseAlgorithm], env: Any, arguments: dict[str, Any], options: dict[str, Any]
) -> BaseAlgorithm:
    """The algorithm, on another environment.

    Args:
        kind: Its class.
        env: Its environment.
        arguments: Of :func:`arguments_of`.
        options: In place of some of them.

    Raises:
        CheckpointError: If something that was left out is not among the options.
    """
    missing = [path for path in arguments["left_out"] if path not in options and path.split(".")[0] not in options]
    if missing:
        words = ", ".join(f"{path} ({arguments['left_out'][path]})" for path in missing)
        raise CheckpointError(
            f"The controller was built with {words}, which is no data and was left out of the file. Pass it again: "
            f"load_controller(path, env, {missing[0].split('.')[0]}=...)."
        )
    known = set(inspect.signature(kind.__init__).parameters) - set(_PROCESS) | {"policy", "policy_kwargs"}
    odd = [path for part in ("values", "classes") for path in arguments[part] if path.split(".")[0] not in known]
    if odd:
        raise CheckpointError(f"The file gives {kind.__name__} an argument that it does not take: {shown(odd[0])}.")
    given: dict[str, Any] = {path: from_data(value) for path, value in arguments["values"].items()}
    for path, name in arguments["classes"].items():
        if name not in _CLASSES:
            raise CheckpointError(f"The file names a class {name!r}, which is none that a controller is built with.")
        given[path] = _CLASSES[name]
    inner = {
        path.removeprefix("policy_kwargs."): given.pop(path) for path in list(given) if path.startswith("policy_kw")
    }
    return kind(**{**given, "policy_kwargs": inner, "env": env, **options})


def _constant(value: Any) -> Any:
    """A schedule that never changes, as its number."""
    if not callable(value) or isinstance(value, type):
        return value
    found = {value(progress) for progress in (1.0, 0.75, 0.5, 0.25, 0.0)}
    return found.pop() if len(found) == 1 else value
