"""The vector environment contract as one call: hold any environment against it.

Example:
    >>> import gymnasium, gar_env
    >>> report = check_vector_env(gymnasium.make_vec("GAR/DataSplit-v1", num_envs=4, num_steps=3))
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

from gar_env.envs.checks.autoreset import check_autoreset, check_wrong_time
from gar_env.envs.checks.compare import (
    SEED,
    Broken,
    Skip,
    check_observations,
    equal,
    is_gymnasiums,
    require,
    rows_ended,
    sampled_actions,
    take_step,
    to_numpy,
    trajectory,
)
from gar_env.envs.checks.rows import check_rows
from gar_env.errors import ConformanceError


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
        except Skip as skip:
            report.skipped[name] = str(skip)
        except Broken as error:
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
        yield f"autoreset {mode.value}", lambda mode=mode: check_autoreset(env, mode, max_steps)
    yield "rows", lambda: check_rows(env, max_steps)
    yield "calls at the wrong time", lambda: check_wrong_time(env)


def _check_spaces(env: VectorEnv) -> None:
    for kind in ("action", "observation"):
        single, batched = getattr(env, f"single_{kind}_space"), getattr(env, f"{kind}_space")
        require(
            batched == batch_space(single, env.num_envs),
            f"{kind}_space is {batched}; expected single_{kind}_space {env.num_envs} times.",
        )
    mode = env.metadata.get("autoreset_mode")
    require(
        isinstance(mode, AutoresetMode),
        f"metadata['autoreset_mode'] is {mode!r}; expected a member of AutoresetMode.",
    )
    # TorchRL reads the attribute, everybody else the metadata.
    require(
        getattr(env.unwrapped, "autoreset_mode", mode) is mode,
        "env.autoreset_mode differs from metadata['autoreset_mode'].",
    )


def _check_types(env: VectorEnv) -> None:
    observations, _ = env.reset(seed=SEED)
    for _ in range(3):
        check_observations(env, observations)
        observations, rewards, terminations, truncations, _ = take_step(env)
        for name, value, kinds in (
            ("rewards", rewards, (np.float32, np.float64)),
            ("terminations", terminations, (np.bool_,)),
            ("truncations", truncations, (np.bool_,)),
        ):
            array = to_numpy(value)
            require(
                array.shape == (env.num_envs,) and array.dtype in kinds,
                f"{name} are {array.dtype} {list(array.shape)}; expected "
                f"{' or '.join(kind.__name__ for kind in kinds)} [{env.num_envs}].",
            )
        require(np.isfinite(to_numpy(rewards)).all(), "rewards are NaN or infinite.")


def _check_infos(env: VectorEnv, max_steps: int) -> None:
    _, infos = env.reset(seed=SEED)
    _check_masks(env, infos)
    for _ in range(max_steps):
        result = take_step(env)
        _check_masks(env, result[4])
        if rows_ended(result).any():
            return


def _check_masks(env: VectorEnv, infos: dict[str, Any]) -> None:
    require(isinstance(infos, dict), f"infos are {type(infos).__name__}; expected a dict of arrays.")
    require(
        "episode" not in infos or env is not env.unwrapped,
        "infos have a key 'episode', which RecordEpisodeStatistics owns. Rename it.",
    )
    for key, value in infos.items():
        if key == "episode":
            continue  # RecordEpisodeStatistics' own, without masks inside
        if key.startswith("_"):
            require(key[1:] in infos, f"infos have the mask {key!r} without a value {key[1:]!r}.")
            continue
        mask = to_numpy(infos.get(f"_{key}", np.zeros(0)))
        require(
            mask.shape == (env.num_envs,) and mask.dtype == np.bool_,
            f"infos[{key!r}] needs a mask infos['_{key}'], bool [{env.num_envs}]; found {mask.dtype} "
            f"{list(mask.shape)}.",
        )
        if isinstance(value, dict):
            _check_masks(env, value)
            continue
        array = to_numpy(value)
        require(
            array.ndim >= 1 and len(array) == env.num_envs,
            f"infos[{key!r}] has the shape {list(array.shape)}; expected one entry per row. Broadcast scalars.",
        )


def _check_repeatable(env: VectorEnv) -> None:
    before = torch.get_rng_state(), np.random.get_state(legacy=False)  # noqa: NPY002
    first = trajectory(env)
    require(
        equal(first, trajectory(env)),
        f"two resets with seed={SEED} and the same actions gave different results. Draw everything from generators "
        "that reset(seed=...) seeds.",
    )
    after = torch.get_rng_state(), np.random.get_state(legacy=False)  # noqa: NPY002
    require(
        equal(before, after),
        "torch's or numpy's global generator moved. Draw from generators of your own.",
    )
    if equal(first, trajectory(env, seed=SEED + 1)):
        raise Skip(f"seeds {SEED} and {SEED + 1} give the same episode; right only if nothing in it is random")


def _check_fresh(env: VectorEnv) -> None:
    clean = trajectory(env)
    env.action_space.seed(SEED)
    earlier: tuple = env.reset(seed=SEED)
    kept = copy.deepcopy(earlier)
    for expected in clean[1:]:
        actions = sampled_actions(env)
        before = copy.deepcopy(actions)
        found = env.step(actions)
        if rows_ended(found).any() and env.metadata.get("autoreset_mode") is AutoresetMode.DISABLED:
            return
        require(equal(actions, before), "step() wrote into the caller's actions.")
        require(equal(kept, earlier), "step() changed arrays that an earlier call returned. Return new arrays.")
        require(
            equal(found[:4], expected[:4]),
            "after the caller wrote into returned arrays, the next step differed. Return copies.",
        )
        for value in (*found[:4], actions):  # Stable-Baselines3 adds to rewards in place
            value[...] = 1
        earlier, kept = found, copy.deepcopy(found)


def _check_pickle(env: VectorEnv) -> None:
    if is_gymnasiums(env):
        raise Skip("Gymnasium's own vectorizers hold closures")
    env.action_space.seed(SEED)
    env.reset(seed=SEED)
    take_step(env)
    try:
        other = pickle.loads(pickle.dumps(env))
    except Exception as error:
        raise Broken(f"the environment cannot be pickled: {error}. Keep closures and handles out of it.") from error
    require(
        equal(trajectory(env, seed=None), trajectory(other, seed=None)),
        "a pickled copy goes on differently from the original. Pickle all generators and buffers.",
    )


def _check_spec(env: VectorEnv) -> None:
    if env.spec is None:
        raise Skip("the environment has no spec; make it with gymnasium.make_vec")
    try:
        spec = EnvSpec.from_json(env.spec.to_json())
    except Exception as error:
        raise Broken(
            f"spec.to_json() failed: {error}. Pass plain strings, numbers and booleans to make_vec."
        ) from error
    twin = gymnasium.make_vec(spec)
    same = equal(trajectory(env), trajectory(twin))
    twin.close()
    require(same, "an environment made from spec.to_json() behaves differently.")
