"""Rows that end apart: what one row does depends on its seed and its actions alone."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from gar_env.envs.checks.compare import SEED, Skip, equal, require, rows_ended, sampled_actions, to_numpy, twin_of

STEPS, MOST_ROWS = 12, 6


def check_rows(env: VectorEnv, max_steps: int) -> None:
    """Hold an environment against the laws of rows, whichever way it says that its rows end.

    Where they end together, ``rows_end_together`` must be true to that. Where they end apart: a row's trajectory does
    not change when other rows act, end or restart otherwise; a mask restarts exactly its rows; ``reset`` takes a list
    of seeds, and ``seed=s`` is ``[s, s + 1, ...]``; in NextStep a restarting row is paid 0 and the others go on; in
    SameStep what a row starts anew with is what Disabled and a mask give; every row ends, and ends again.
    """
    together = getattr(env.unwrapped, "rows_end_together", None)
    if together is None:
        raise Skip("the environment does not say whether its rows end together")
    twin = twin_of(env, AutoresetMode.NEXT_STEP)
    try:
        ends = _ends(twin, max_steps)
    finally:
        twin.close()
    if together:
        apart = [step for step, ended in enumerate(ends) if ended.any() and not ended.all()]
        require(not apart, f"rows_end_together is True, but in step {apart[:1]} some rows ended and others did not.")
        return
    require(np.stack(ends).sum(0).min() >= 2, f"a row did not end twice within {max_steps} steps.")
    if env.num_envs < 2:
        raise Skip("one row cannot depend on another; pass an environment with several")
    _check_independence(env)
    _check_seeds(env)
    _check_masks(env, max_steps)


def _actions(env: VectorEnv, steps: int, seed: int = SEED) -> list[Any]:
    env.action_space.seed(seed)
    return [env.action_space.sample() for _ in range(steps)]


def _ends(env: VectorEnv, max_steps: int) -> list[np.ndarray]:
    env.reset(seed=SEED)
    ends: list[np.ndarray] = []
    env.action_space.seed(SEED)
    for _ in range(max_steps):
        ends.append(rows_ended(env.step(sampled_actions(env))))
        if np.stack(ends).sum(0).min() >= 2:
            break
    return ends


def _row(result: tuple, row: int) -> tuple:
    """Observation, reward, ends and infos of one row."""
    infos = result[4]
    shown = [to_numpy(infos[key])[row] for key in sorted(infos) if f"_{key}" in infos and not key.startswith("final")]
    return *(to_numpy(value)[row].copy() for value in result[:4]), *shown


def _trajectory(env: VectorEnv, actions: list[Any], row: int, seed: Any = SEED) -> list[tuple]:
    observations, _ = env.reset(seed=seed)
    first = (to_numpy(observations)[row].copy(),)
    return [first, *(_row(env.step(one), row) for one in actions)]


def _check_independence(env: VectorEnv) -> None:
    for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
        twin = twin_of(env, mode)
        try:
            actions, others = _actions(twin, STEPS), _actions(twin, STEPS, SEED + 1)
            for row in range(min(env.num_envs, MOST_ROWS)):
                mixed = copy.deepcopy(others)
                for one, own in zip(mixed, actions, strict=True):
                    one[row] = own[row]
                require(
                    equal(_trajectory(twin, actions, row), _trajectory(twin, mixed, row)),
                    f"in {mode.value}, row {row} went on differently when the other rows acted otherwise.",
                )
        finally:
            twin.close()


def _check_seeds(env: VectorEnv) -> None:
    twin = twin_of(env, AutoresetMode.NEXT_STEP)
    try:
        n, actions = env.num_envs, _actions(twin, STEPS)
        listed = [SEED + row for row in range(n)]
        for row in range(min(n, MOST_ROWS)):
            first = _trajectory(twin, actions, row)
            require(
                equal(first, _trajectory(twin, actions, row, listed)),
                f"reset(seed={SEED}) is not reset(seed=[{SEED}, {SEED + 1}, ...]) in row {row}.",
            )
            others = [seed + 1000 * (other != row) for other, seed in enumerate(listed)]
            require(
                equal(first, _trajectory(twin, actions, row, others)),
                f"row {row} went on differently when others were seeded.",
            )
            own = [seed + 1000 * (other == row) for other, seed in enumerate(listed)]
            require(
                not equal(first, _trajectory(twin, actions, row, own)),
                f"row {row} goes on alike with another seed of its own.",
            )
    finally:
        twin.close()


def _check_mask_amid(env: VectorEnv) -> None:
    observations, _ = env.reset(seed=SEED)
    result = env.step(_actions(env, 1)[0])
    mask = ~rows_ended(result)
    mask[-1] = rows_ended(result)[-1]
    if not mask.any() or mask.all():
        raise Skip("no row could be left out of a mask in the middle of an episode")
    before = to_numpy(result[0]).copy()
    observations, _ = env.reset(options={"reset_mask": mask.copy()})
    after = to_numpy(observations)
    require(equal(after[~mask], before[~mask]), "a reset mask changed rows that it leaves out.")
    require(not equal(after[mask], before[mask]), "a reset mask did not restart its rows.")


def _check_masks(env: VectorEnv, max_steps: int) -> None:
    disabled, same = twin_of(env, AutoresetMode.DISABLED), twin_of(env, AutoresetMode.SAME_STEP)
    try:
        disabled.reset(seed=SEED)
        same.reset(seed=SEED)
        for actions in _actions(disabled, max_steps):
            result, other = disabled.step(actions), same.step(actions)
            ended = rows_ended(result)
            if not ended.any():
                continue
            if ended.all():
                disabled.reset(options={"reset_mask": ended})
                continue
            before = to_numpy(result[0]).copy()
            observations, _ = disabled.reset(options={"reset_mask": ended})
            after = to_numpy(observations)
            require(equal(after[~ended], before[~ended]), "a reset mask changed rows that it leaves out.")
            require(
                equal(after[ended], to_numpy(other[0])[ended]),
                "what rows start with after a reset mask is not what they start with in SameStep.",
            )
            marked = to_numpy(other[4]["_final_obs"])
            require(np.array_equal(marked, ended), "in SameStep, final_obs does not mark the rows that ended.")
            final = [to_numpy(other[4]["final_obs"][row]) for row in np.flatnonzero(ended)]
            require(equal(np.stack(final), before[ended]), "final_obs is not what the rows ended with.")
            return
        # They all end at once: then masks are tried in the middle of episodes.
        _check_mask_amid(disabled)
    finally:
        disabled.close()
        same.close()
