"""The vector environment contract as one call: hold any environment against it.

Example:
    >>> import gymnasium, gar_env
    >>> report = check_vector_env(gymnasium.make_vec("GAR/DataSplit-v0", num_envs=4, num_steps=3))
    >>> report.skipped
    {}
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from gar_env.errors import ConformanceError

SEED = 7
GYMNASIUMS_OWN = (gymnasium.vector.SyncVectorEnv, gymnasium.vector.AsyncVectorEnv)


@dataclass
class Report:
    """What was checked.

    Args:
        passed: Names of the checks that hold.
        skipped: Name -> why it could not be checked.
    """

    passed: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"ok       {name}" for name in self.passed]
        return "\n".join(lines + [f"skipped  {name}: {why}" for name, why in self.skipped.items()])


class _Broken(Exception):
    """A check does not hold."""


class _Skip(Exception):
    """A check cannot be made."""


def check_vector_env(env: VectorEnv, *, max_steps: int = 1000) -> Report:
    """Hold a vector environment against the contract that agents rely on.

    Spaces and their batches, shapes and types, repeatability per seed, autoreset in each mode, masked infos, fresh
    arrays, spec round trip, pickling in mid-episode, and errors for calls at the wrong time.

    Args:
        env: Any vector environment; it is reset and stepped, not closed. Other modes and copies are built from
            ``env.spec``; without one, those checks are skipped.
        max_steps: How long to wait for an episode to end.

    Returns:
        What was checked.

    Raises:
        ConformanceError: With every check that does not hold, what was found, and what to do.
    """
    report, broken = Report(), []
    for name, check in _checks(env, max_steps):
        try:
            check()
        except _Skip as skip:
            report.skipped[name] = str(skip)
        except _Broken as error:
            broken.append(f"{name}: {error}")
        except Exception as error:
            broken.append(f"{name}: raised {type(error).__name__}: {error}")
        else:
            report.passed.append(name)
    if broken:
        raise ConformanceError(f"{env} breaks {len(broken)} of the checks:\n" + "\n".join(f"- {b}" for b in broken))
    return report


def _checks(env: VectorEnv, max_steps: int) -> Iterator[tuple[str, Callable[[], None]]]:
    yield "spaces", lambda: _check_spaces(env)
    yield "shapes and types", lambda: _check_types(env)
    yield "infos", lambda: _check_infos(env, max_steps)
    yield "repeatable per seed", lambda: _check_repeatable(env)
    yield "fresh arrays", lambda: _check_fresh(env)
    yield "pickling", lambda: _check_pickle(env)
    yield "spec round trip", lambda: _check_spec(env)
    for mode in AutoresetMode:
        yield f"autoreset {mode.value}", lambda mode=mode: _check_autoreset(env, mode, max_steps)
    yield "calls at the wrong time", lambda: _check_wrong_time(env)


def _require(condition: Any, message: str) -> None:
    if not condition:
        raise _Broken(message)


def _array(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _equal(a: Any, b: Any) -> bool:
    """Whether two observations, rewards or infos are the same, element by element."""
    if isinstance(a, dict):
        return set(a) == set(b) and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    a, b = _array(a), _array(b)
    if a.dtype == object:
        return a.shape == b.shape and all(_equal(x, y) for x, y in zip(a.flat, b.flat, strict=True))
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))


def _twin(env: VectorEnv, mode: AutoresetMode | None = None) -> VectorEnv:
    """A new environment of the same spec, in another autoreset mode if asked for."""
    if env.spec is None:
        raise _Skip("the environment has no spec; make it with gymnasium.make_vec")
    if mode is None:
        return gymnasium.make_vec(env.spec)
    if env.spec.kwargs.get("vectorization_mode") == "vector_entry_point":
        return gymnasium.make_vec(env.spec, autoreset_mode=mode.value)
    spec = copy.deepcopy(env.spec)
    spec.kwargs["vector_kwargs"] = {**spec.kwargs.get("vector_kwargs", {}), "autoreset_mode": mode.value}
    return gymnasium.make_vec(spec)


def _trajectory(env: VectorEnv, steps: int = 3, *, reset: bool = True) -> list[Any]:
    """Everything that a reset and some random steps return, copied."""
    env.action_space.seed(SEED)
    found: list[Any] = [copy.deepcopy(env.reset(seed=SEED))] if reset else []
    return found + [copy.deepcopy(env.step(env.action_space.sample())) for _ in range(steps)]


def _check_spaces(env: VectorEnv) -> None:
    for kind in ("action", "observation"):
        single, batched = getattr(env, f"single_{kind}_space"), getattr(env, f"{kind}_space")
        _require(
            batched == batch_space(single, env.num_envs),
            f"{kind}_space is {batched}; expected single_{kind}_space {env.num_envs} times.",
        )
    mode = env.metadata.get("autoreset_mode")
    _require(
        isinstance(mode, AutoresetMode), f"metadata['autoreset_mode'] is {mode!r}; expected a member of AutoresetMode."
    )
    # TorchRL reads the attribute, everybody else the metadata.
    _require(
        getattr(env.unwrapped, "autoreset_mode", mode) is mode,
        "env.autoreset_mode differs from metadata['autoreset_mode'].",
    )


def _check_types(env: VectorEnv) -> None:
    observations, _ = env.reset(seed=SEED)
    for _ in range(3):
        _check_observations(env, observations)
        observations, rewards, terminations, truncations, _ = env.step(env.action_space.sample())
        for name, value, kinds in (
            ("rewards", rewards, "f"),
            ("terminations", terminations, "b"),
            ("truncations", truncations, "b"),
        ):
            array = _array(value)
            _require(
                array.shape == (env.num_envs,) and array.dtype.kind in kinds,
                f"{name} are {array.dtype} {list(array.shape)}; expected {'bool' if kinds == 'b' else 'floating point'} "
                f"[{env.num_envs}].",
            )
        _require(np.isfinite(_array(rewards)).all(), "rewards are NaN or infinite.")


def _check_observations(env: VectorEnv, observations: Any) -> None:
    if isinstance(observations, torch.Tensor):
        observations = observations.cpu().numpy()
    _require(
        env.observation_space.contains(observations),
        f"observations are not in observation_space {env.observation_space}: found "
        f"{getattr(observations, 'dtype', type(observations))} {list(getattr(observations, 'shape', []))}.",
    )


def _check_infos(env: VectorEnv, max_steps: int) -> None:
    _, infos = env.reset(seed=SEED)
    _check_masks(env, infos)
    for _ in range(max_steps):
        _, _, terminations, truncations, infos = env.step(env.action_space.sample())
        _check_masks(env, infos)
        if (_array(terminations) | _array(truncations)).any():
            return


def _check_masks(env: VectorEnv, infos: dict[str, Any]) -> None:
    _require(isinstance(infos, dict), f"infos are {type(infos).__name__}; expected a dict of arrays.")
    _require("episode" not in infos, "infos have a key 'episode', which RecordEpisodeStatistics owns. Rename it.")
    for key, value in infos.items():
        if key.startswith("_"):
            _require(key[1:] in infos, f"infos have the mask {key!r} without a value {key[1:]!r}.")
            continue
        mask = _array(infos.get(f"_{key}", np.zeros(0)))
        _require(
            mask.shape == (env.num_envs,) and mask.dtype == np.bool_,
            f"infos[{key!r}] needs a mask infos['_{key}'], bool [{env.num_envs}]; found {mask.dtype} {list(mask.shape)}.",
        )
        if isinstance(value, dict):
            _check_masks(env, value)
            continue
        array = _array(value)
        _require(
            array.ndim >= 1 and len(array) == env.num_envs,
            f"infos[{key!r}] has the shape {list(array.shape)}; expected one entry per row. Broadcast scalars.",
        )


def _check_repeatable(env: VectorEnv) -> None:
    _require(
        _equal(_trajectory(env), _trajectory(env)),
        f"two resets with seed={SEED} and the same actions gave different results. Draw everything from generators "
        "that reset(seed=...) seeds.",
    )


def _check_fresh(env: VectorEnv) -> None:
    clean = _trajectory(env)
    env.action_space.seed(SEED)
    earlier, _ = env.reset(seed=SEED)
    kept = copy.deepcopy(earlier)
    for expected in clean[1:]:
        actions = env.action_space.sample()
        found = env.step(actions)
        _require(_equal(kept, earlier), "step() changed observations that an earlier call returned. Return new arrays.")
        _require(
            _equal(found[:4], expected[:4]),
            "after the caller wrote into returned arrays, the next step differed. Return copies.",
        )
        earlier, kept = found[0], copy.deepcopy(found[0])
        rewards = found[1]
        rewards += 1  # Stable-Baselines3 does this
        for value in (*found[2:4], actions):
            value[...] = 1


def _check_pickle(env: VectorEnv) -> None:
    if isinstance(env.unwrapped, GYMNASIUMS_OWN):
        raise _Skip("Gymnasium's own vectorizers hold closures")
    env.action_space.seed(SEED)
    env.reset(seed=SEED)
    env.step(env.action_space.sample())
    try:
        other = pickle.loads(pickle.dumps(env))
    except Exception as error:
        raise _Broken(f"the environment cannot be pickled: {error}. Keep closures and handles out of it.") from error
    _require(
        _equal(_trajectory(env, reset=False), _trajectory(other, reset=False)),
        "a pickled copy goes on differently from the original. Pickle all generators and buffers.",
    )


def _check_spec(env: VectorEnv) -> None:
    if env.spec is None:
        raise _Skip("the environment has no spec; make it with gymnasium.make_vec")
    try:
        spec = EnvSpec.from_json(env.spec.to_json())
    except Exception as error:
        raise _Broken(
            f"spec.to_json() failed: {error}. Pass plain strings, numbers and booleans to make_vec."
        ) from error
    twin = gymnasium.make_vec(spec)
    same = _equal(_trajectory(env), _trajectory(twin))
    twin.close()
    _require(same, "an environment made from spec.to_json() behaves differently.")


def _check_autoreset(env: VectorEnv, mode: AutoresetMode, max_steps: int) -> None:
    twin = _twin(env, mode)
    try:
        _require(
            twin.metadata.get("autoreset_mode") is mode,
            f"made with autoreset_mode={mode.value!r}, metadata says {twin.metadata.get('autoreset_mode')}.",
        )
        observations, _ = twin.reset(seed=SEED)
        for _ in range(max_steps):
            observations, _, terminations, truncations, infos = twin.step(twin.action_space.sample())
            ended = _array(terminations) | _array(truncations)
            if ended.any():
                break
        else:
            raise _Skip(f"no episode ended within {max_steps} steps")
        if mode is AutoresetMode.SAME_STEP:
            _check_same_step(twin, ended, observations, infos)
        else:
            _require("final_obs" not in infos, f"infos have 'final_obs', which belongs to SameStep, not {mode.value}.")
        if mode is AutoresetMode.NEXT_STEP:
            observations, rewards, terminations, truncations, _ = twin.step(twin.action_space.sample())
            quiet = (_array(rewards)[ended] == 0) & ~(_array(terminations) | _array(truncations))[ended]
            _require(quiet.all(), "the step after the end must return the new episode's start with reward 0, not ended.")
            _check_observations(twin, observations)
        if mode is AutoresetMode.DISABLED:
            _check_reset_mask(twin, ended)
    finally:
        twin.close()


def _check_same_step(env: VectorEnv, ended: np.ndarray, observations: Any, infos: dict[str, Any]) -> None:
    for key in ("final_obs", "final_info"):
        _require(key in infos, f"infos lack {key!r} in the step where rows ended.")
        _require(np.array_equal(_array(infos[f"_{key}"]), ended), f"the mask '_{key}' does not mark the rows that ended.")
    row = int(np.flatnonzero(ended)[0])
    final, first = _array(infos["final_obs"][row]), _array(observations)[row]
    _require(final.shape == first.shape, f"final_obs[{row}] has the shape {list(final.shape)}, not {list(first.shape)}.")
    _require(
        not np.array_equal(final, first),
        "final_obs is the new episode's observation. Keep the last observation before resetting.",
    )


def _check_reset_mask(env: VectorEnv, ended: np.ndarray) -> None:
    options = {"reset_mask": ended.copy()}
    before = dict(options)
    observations, _ = env.reset(options=options)
    _check_observations(env, observations)
    # Gymnasium's own pop the mask: an agent that reuses its options would then reset every row.
    if not isinstance(env.unwrapped, GYMNASIUMS_OWN):
        _require(
            options.keys() == before.keys() and np.array_equal(options["reset_mask"], ended),
            "reset() changed the caller's options.",
        )
    env.step(env.action_space.sample())


def _check_wrong_time(env: VectorEnv) -> None:
    twin = _twin(env)
    actions = twin.action_space.sample()
    _require(_raises(lambda: twin.step(actions)), "step() before reset() raised nothing.")
    twin.reset(seed=SEED)
    twin.close()
    twin.close()
    _require(_raises(lambda: twin.step(actions)), "step() after close() raised nothing.")


def _raises(call: Callable[[], Any]) -> bool:
    try:
        call()
    except Exception:
        return True
    return False
