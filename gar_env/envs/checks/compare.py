"""Tools of the checks: requirements, comparisons, and copies of an environment."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode, VectorEnv

SEED = 7


class Broken(Exception):
    """A check does not hold."""


class Skip(Exception):
    """A check cannot be made."""


def require(condition: Any, message: str) -> None:
    """Go on only if the condition holds."""
    if not condition:
        raise Broken(message)


def to_numpy(value: Any) -> np.ndarray:
    """An array of an array or tensor."""
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def equal(a: Any, b: Any) -> bool:
    """Whether two observations, rewards or infos are the same, element by element.

    The key ``episode`` is left out: ``RecordEpisodeStatistics`` keeps wall-clock times there.
    """
    if isinstance(a, dict):
        keys = set(a) - {"episode", "_episode"}
        return keys == set(b) - {"episode", "_episode"} and all(equal(a[key], b[key]) for key in keys)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    if a is None or b is None or isinstance(a, str):
        return a == b
    a, b = to_numpy(a), to_numpy(b)
    if a.dtype == object:
        return a.shape == b.shape and all(equal(x, y) for x, y in zip(a.flat, b.flat, strict=True))
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))


def is_gymnasiums(env: VectorEnv) -> bool:
    """Whether Gymnasium itself wrote the environment: some of its own habits are let pass."""
    return type(env.unwrapped).__module__.startswith("gymnasium.")


def twin_of(env: VectorEnv, mode: AutoresetMode | None = None) -> VectorEnv:
    """A new environment of the same spec, in another autoreset mode if asked for.

    Raises:
        Skip: If there is no spec, or the environment does not take the mode as an option.
    """
    if env.spec is None:
        raise Skip("the environment has no spec; make it with gymnasium.make_vec")
    if mode is None:
        return gymnasium.make_vec(env.spec)
    if env.spec.kwargs.get("vectorization_mode") != "vector_entry_point":
        spec = copy.deepcopy(env.spec)
        spec.kwargs["vector_kwargs"] = {**spec.kwargs.get("vector_kwargs", {}), "autoreset_mode": mode.value}
        return gymnasium.make_vec(spec)
    try:
        return gymnasium.make_vec(env.spec, autoreset_mode=mode.value)
    except TypeError as error:
        raise Skip(f"the environment has no option autoreset_mode: {error}") from error


def take_step(env: VectorEnv) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
    """One random step; an environment that waits for its user to reset ended rows is reset after it."""
    result = env.step(sampled_actions(env))
    ended = rows_ended(result)
    if ended.any() and env.metadata.get("autoreset_mode") is AutoresetMode.DISABLED:
        env.reset(options={"reset_mask": ended})
    return result


def sampled_actions(env: VectorEnv) -> Any:
    """Random actions, of those that are valid where the environment says which."""
    masks = getattr(env.unwrapped, "action_masks", None)
    rows = masks() if masks is not None and isinstance(env.unwrapped.single_action_space, Discrete) else None
    if rows is None or rows.all():
        return env.action_space.sample()
    return env.action_space.sample(mask=tuple(row.astype(np.int8) for row in rows))


def rows_ended(result: tuple[Any, Any, Any, Any, dict[str, Any]]) -> np.ndarray:
    """Which rows a step terminated or truncated, bool ``[n]``."""
    return to_numpy(result[2]) | to_numpy(result[3])


def trajectory(env: VectorEnv, steps: int = 3, *, seed: int | None = SEED) -> list[Any]:
    """Everything that some random steps return, after a reset unless ``seed`` is ``None``; copied."""
    env.action_space.seed(SEED)
    found: list[Any] = [] if seed is None else [copy.deepcopy(env.reset(seed=seed))]
    return found + [copy.deepcopy(take_step(env)) for _ in range(steps)]


def check_observations(env: VectorEnv, observations: Any) -> None:
    """Hold observations against the space."""
    if isinstance(observations, torch.Tensor):
        observations = observations.cpu().numpy()
    require(
        env.observation_space.contains(observations),
        f"observations are not in observation_space {env.observation_space}: found "
        f"{getattr(observations, 'dtype', type(observations))} {list(getattr(observations, 'shape', []))}.",
    )
