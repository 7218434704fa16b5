"""The three autoreset modes, and calls at the wrong time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from gar_env.envs.checks.compare import GYMNASIUMS_OWN, SEED, Skip, check_observations, require, to_numpy, twin_of


def check_autoreset(env: VectorEnv, mode: AutoresetMode, max_steps: int) -> None:
    """Run an environment of the same spec in ``mode`` to the end of an episode and one call beyond."""
    twin = twin_of(env, mode)
    try:
        require(
            twin.metadata.get("autoreset_mode") is mode,
            f"made with autoreset_mode={mode.value!r}, metadata says {twin.metadata.get('autoreset_mode')}.",
        )
        observations, _ = twin.reset(seed=SEED)
        for _ in range(max_steps):
            observations, _, terminations, truncations, infos = twin.step(twin.action_space.sample())
            ended = to_numpy(terminations) | to_numpy(truncations)
            if ended.any():
                break
        else:
            raise Skip(f"no episode ended within {max_steps} steps")
        if mode is AutoresetMode.SAME_STEP:
            _check_same_step(twin, ended, observations, infos)
        else:
            require(
                "final_obs" not in infos,
                f"infos have 'final_obs', which belongs to SameStep, not {mode.value}.",
            )
        if mode is AutoresetMode.NEXT_STEP:
            observations, rewards, terminations, truncations, _ = twin.step(twin.action_space.sample())
            quiet = (to_numpy(rewards)[ended] == 0) & ~(to_numpy(terminations) | to_numpy(truncations))[ended]
            require(
                quiet.all(),
                "the step after the end must return the new episode's start with reward 0, not ended.",
            )
            check_observations(twin, observations)
        if mode is AutoresetMode.DISABLED:
            _check_reset_mask(twin, ended)
    finally:
        twin.close()


def _check_same_step(env: VectorEnv, ended: np.ndarray, observations: Any, infos: dict[str, Any]) -> None:
    for key in ("final_obs", "final_info"):
        require(key in infos, f"infos lack {key!r} in the step where rows ended.")
        require(
            np.array_equal(to_numpy(infos[f"_{key}"]), ended),
            f"the mask '_{key}' does not mark the rows that ended.",
        )
    row = int(np.flatnonzero(ended)[0])
    final, first = to_numpy(infos["final_obs"][row]), to_numpy(observations)[row]
    require(
        final.shape == first.shape,
        f"final_obs[{row}] has the shape {list(final.shape)}, not {list(first.shape)}.",
    )
    require(
        not np.array_equal(final, first),
        "final_obs is the new episode's observation. Keep the last observation before resetting.",
    )


def _check_reset_mask(env: VectorEnv, ended: np.ndarray) -> None:
    options = {"reset_mask": ended.copy()}
    before = dict(options)
    observations, _ = env.reset(options=options)
    check_observations(env, observations)
    # Gymnasium's own pop the mask: an agent that reuses its options would then reset every row.
    if not isinstance(env.unwrapped, GYMNASIUMS_OWN):
        require(
            options.keys() == before.keys() and np.array_equal(options["reset_mask"], ended),
            "reset() changed the caller's options.",
        )
    env.step(env.action_space.sample())


def check_wrong_time(env: VectorEnv) -> None:
    """``step`` before ``reset`` and after ``close`` must raise; closing twice must not."""
    twin = twin_of(env)
    actions = twin.action_space.sample()
    require(_raises(lambda: twin.step(actions)), "step() before reset() raised nothing.")
    twin.reset(seed=SEED)
    twin.close()
    twin.close()
    if not isinstance(twin.unwrapped, GYMNASIUMS_OWN):
        require(_raises(lambda: twin.step(actions)), "step() after close() raised nothing.")


def _raises(call: Callable[[], Any]) -> bool:
    try:
        call()
    except Exception:
        return True
    return False
