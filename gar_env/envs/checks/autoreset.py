"""The three autoreset modes, and calls at the wrong time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from gar_env.envs.checks.compare import (
    SEED,
    Skip,
    check_observations,
    equal,
    is_gymnasiums,
    require,
    rows_ended,
    sampled_actions,
    to_numpy,
    twin_of,
)


def check_autoreset(env: VectorEnv, mode: AutoresetMode, max_steps: int) -> None:
    """Run an environment of the same spec in ``mode`` to the end of an episode and one call beyond."""
    twin = twin_of(env, mode)
    try:
        require(
            twin.metadata.get("autoreset_mode") is mode,
            f"made with autoreset_mode={mode.value!r}, metadata says {twin.metadata.get('autoreset_mode')}.",
        )
        end = _run_to_the_end(twin, max_steps)
        if mode is AutoresetMode.SAME_STEP:
            _check_same_step(env, twin, end, max_steps)
            return
        require("final_obs" not in end[4], f"infos have 'final_obs', which belongs to SameStep, not {mode.value}.")
        if mode is AutoresetMode.NEXT_STEP:
            _check_next_step(twin, end)
        else:
            _check_disabled(twin, end)
    finally:
        twin.close()


def _run_to_the_end(env: VectorEnv, max_steps: int) -> tuple:
    """What the first step returned in which a row ended; every observation on the way must be in the space."""
    env.action_space.seed(SEED)
    observations, _ = env.reset(seed=SEED)
    for _ in range(max_steps):
        check_observations(env, observations)
        result = env.step(sampled_actions(env))
        observations = result[0]
        if rows_ended(result).any():
            check_observations(env, observations)
            return result
    raise Skip(f"no episode ended within {max_steps} steps")


def _check_same_step(env: VectorEnv, twin: VectorEnv, end: tuple, max_steps: int) -> None:
    observations, _, _, _, infos = end
    ended = rows_ended(end)
    for key in ("final_obs", "final_info"):
        require(key in infos, f"infos lack {key!r} in the step where rows ended.")
        marked = to_numpy(infos[f"_{key}"])
        require(np.array_equal(marked, ended), f"the mask '_{key}' does not mark the rows that ended.")
    other = twin_of(env, AutoresetMode.NEXT_STEP)
    reference = _run_to_the_end(other, max_steps)
    fresh = other.step(sampled_actions(other))[0]
    other.close()
    for row in np.flatnonzero(ended):
        final, expected = to_numpy(infos["final_obs"][row]), to_numpy(reference[0])[row]
        require(
            final.dtype == expected.dtype and equal(final, expected),
            f"final_obs[{row}] is not the observation that the episode ended with in NextStep mode, same seed and "
            "actions. Keep the last observation before resetting.",
        )
        require(
            equal(to_numpy(observations)[row], to_numpy(fresh)[row]),
            f"the observation of row {row} in the step where it ended is not the start of its next episode.",
        )
    lacking = set(reference[4]) - {"episode", "_episode"} - set(infos["final_info"])
    require(not lacking, f"final_info lacks {', '.join(sorted(lacking))}, which NextStep's infos have at the end.")


def _check_next_step(twin: VectorEnv, end: tuple) -> None:
    ended = rows_ended(end)
    result = twin.step(sampled_actions(twin))
    check_observations(twin, result[0])
    quiet = (to_numpy(result[1])[ended] == 0) & ~rows_ended(result)[ended]
    require(quiet.all(), "the step after the end must return the new episode's start with reward 0, not ended.")


def _check_disabled(twin: VectorEnv, end: tuple) -> None:
    ended = rows_ended(end)
    actions = sampled_actions(twin)
    require(
        is_gymnasiums(twin) or _raises(lambda: twin.step(actions)),
        "step() after the end raised nothing, though the user has not reset the rows that ended.",
    )
    options = {"reset_mask": ended.copy()}
    before = copy.deepcopy(options)
    observations, _ = twin.reset(options=options)
    check_observations(twin, observations)
    # Gymnasium's own pop the mask: an agent that reuses its options would then reset every row.
    if not is_gymnasiums(twin):
        require(
            options.keys() == before.keys() and np.array_equal(options["reset_mask"], ended),
            "reset() changed the caller's options.",
        )
    twin.step(sampled_actions(twin))


def check_wrong_time(env: VectorEnv) -> None:
    """``step`` before ``reset`` and after ``close`` must raise; closing twice must not."""
    twin = twin_of(env)
    actions = sampled_actions(twin)
    require(_raises(lambda: twin.step(actions)), "step() before reset() raised nothing.")
    if is_gymnasiums(twin):  # its own environments do not look whether they are closed
        twin.close()
        return
    twin.reset(seed=SEED)
    twin.close()
    twin.close()
    require(_raises(lambda: twin.step(actions)), "step() after close() raised nothing.")


def _raises(call: Callable[[], Any]) -> bool:
    try:
        call()
    except Exception:
        return True
    return False
