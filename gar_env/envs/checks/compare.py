"""Tools of the checks: requirements, comparisons, and copies of an environment."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

SEED = 7
GYMNASIUMS_OWN = (gymnasium.vector.SyncVectorEnv, gymnasium.vector.AsyncVectorEnv)


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
    """Whether two observations, rewards or infos are the same, element by element."""
    if isinstance(a, dict):
        return set(a) == set(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    a, b = to_numpy(a), to_numpy(b)
    if a.dtype == object:
        return a.shape == b.shape and all(equal(x, y) for x, y in zip(a.flat, b.flat, strict=True))
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))


def twin_of(env: VectorEnv, mode: AutoresetMode | None = None) -> VectorEnv:
    """A new environment of the same spec, in another autoreset mode if asked for."""
    if env.spec is None:
        raise Skip("the environment has no spec; make it with gymnasium.make_vec")
    if mode is None:
        return gymnasium.make_vec(env.spec)
    if env.spec.kwargs.get("vectorization_mode") == "vector_entry_point":
        return gymnasium.make_vec(env.spec, autoreset_mode=mode.value)
    spec = copy.deepcopy(env.spec)
    spec.kwargs["vector_kwargs"] = {**spec.kwargs.get("vector_kwargs", {}), "autoreset_mode": mode.value}
    return gymnasium.make_vec(spec)


def trajectory(env: VectorEnv, steps: int = 3, *, reset: bool = True) -> list[Any]:
    """Everything that a reset and some random steps return, copied."""
    env.action_space.seed(SEED)
    found: list[Any] = [copy.deepcopy(env.reset(seed=SEED))] if reset else []
    return found + [copy.deepcopy(env.step(env.action_space.sample())) for _ in range(steps)]


def check_observations(env: VectorEnv, observations: Any) -> None:
    """Hold observations against the space."""
    if isinstance(observations, torch.Tensor):
        observations = observations.cpu().numpy()
    require(
        env.observation_space.contains(observations),
        f"observations are not in observation_space {env.observation_space}: found "
        f"{getattr(observations, 'dtype', type(observations))} {list(getattr(observations, 'shape', []))}.",
    )
