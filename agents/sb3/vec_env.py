"""Our vector environments as Stable-Baselines3 expects them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.vec_env import VecEnv

import gar_env  # noqa: F401 - registers the environments
from gar_env.errors import ConfigurationError

Indices = int | Iterable[int] | None


class SB3VecEnv(VecEnv):
    """A vector environment for Stable-Baselines3: each row is one of SB3's environments.

    Info dicts are empty but at the end of a row's episode, since a thousand of them are made in every step: then it has
    ``terminal_observation``, ``TimeLimit.truncated``, and what the episode came to: ``episode`` (``r``: return, ``l``:
    steps, ``t``: seconds, as SB3's ``Monitor``) and the environment's own infos of that step, ``test_accuracy`` among
    them. The arrays of the last step are in :attr:`infos`.

    Where rows share one training run, it has one seed; where they end apart, row ``r`` has the seed ``s + r``. All rows
    are one object: :meth:`get_attr` gives every row the same value, and :meth:`set_attr` changes it for all of them.

    Args:
        env: A vector environment with ``autoreset_mode="SameStep"`` and numpy output; :func:`make_sb3_env` makes one.
        late_rewards: Say True to use ``reward_timing="next_step"``, whose rewards belong to the actions before the
            last, with an agent that allows for it (:class:`~agents.sb3.ShiftedRolloutBuffer`);
            :func:`~agents.sb3.check_controller` tells which do.

    Raises:
        ConfigurationError: If the environment is none of these; the message says what to do.
    """

    def __init__(self, env: VectorEnv, *, late_rewards: bool = False) -> None:
        _check_env(env, late_rewards)
        self.env = env
        self.late_rewards = getattr(env.unwrapped, "reward_timing", "same_step") == "next_step"
        self._together = bool(getattr(env.unwrapped, "rows_end_together", False))
        n = env.num_envs
        self._returns, self._lengths, self._started = np.zeros(n), np.zeros(n, int), np.zeros(n)
        self.infos: dict[str, Any] = {}
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> np.ndarray:
        """Start an episode with the seed and options given before, once. Observations, ``[n, d]``."""
        seed: Any = self._seeds[0]
        if not self._together and seed is not None:
            seed = list(self._seeds)
        observations, self.infos = self.env.reset(seed=seed, options=self._options[0] or None)
        self.reset_infos = [{} for _ in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        self._start_statistics(np.ones(self.num_envs, bool))
        return observations

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed the next :meth:`reset`: the same seed for rows that share one run, ``seed + r`` for others."""
        first = super().seed(seed)[0]
        if self._together:
            self._seeds = [first] * self.num_envs
        return self._seeds

    def set_options(self, options: list[dict] | dict | None = None) -> None:
        """Options of the next :meth:`reset`, one dict for all rows.

        Raises:
            ConfigurationError: If rows are given different ones: they share one run.
        """
        if isinstance(options, list) and (len(options) != self.num_envs or any(o != options[0] for o in options)):
            raise ConfigurationError(
                f"set_options got {len(options)} dicts for {self.num_envs} rows that share one run. Pass one dict, or "
                "the same for every row."
            )
        super().set_options(options)

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Take the step.

        Returns:
            ``(observations [n, d], rewards [n], dones [n], n info dicts)``; all arrays are new.
        """
        observations, rewards, terminations, truncations, self.infos = self.env.step(self._actions)
        dones = np.logical_or(terminations, truncations)
        self._returns += rewards
        self._lengths += 1
        info_dicts: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if dones.any():
            self._describe_ends(info_dicts, dones, truncations & ~terminations)
        return observations, rewards, dones, info_dicts

    def _describe_ends(self, info_dicts: list[dict[str, Any]], dones: np.ndarray, truncated: np.ndarray) -> None:
        ended = np.flatnonzero(dones)
        for row in ended:
            info_dicts[row]["terminal_observation"] = np.array(self.infos["final_obs"][row])
            info_dicts[row]["TimeLimit.truncated"] = bool(truncated[row])
        final, now = self.infos["final_info"], time.monotonic()
        for row in ended:
            length = int(self._lengths[row])
            seconds = round(now - float(self._started[row]), 6)
            info_dicts[row]["episode"] = {"r": float(self._returns[row]), "l": length, "t": seconds}
            # Whatever the environment says of its last step; what is absent is NaN, as the accuracy of a diverged run.
            own = {key: value[row] for key, value in final.items() if not key.startswith("_")}
            info_dicts[row] |= {key: value if value.ndim else value.item() for key, value in own.items()}
        self._start_statistics(dones)

    def _start_statistics(self, rows: np.ndarray) -> None:
        self._returns[rows], self._lengths[rows], self._started[rows] = 0, 0, time.monotonic()

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """The picture that all rows share, once."""
        frames = self.env.render() if self.render_mode == "rgb_array" else None
        return [None if frames is None else np.asarray(frames[0])]

    # Attributes and methods of "each" environment

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """An attribute of the environment, once per row.

        Raises:
            AttributeError: If it has none of that name.
        """
        return [getattr(self._owner(attr_name), attr_name)] * len(self._rows(indices))

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Set an attribute of the environment.

        Raises:
            ConfigurationError: If only some rows are meant: they share one environment.
        """
        if len(set(self._rows(indices))) < self.num_envs:
            raise ConfigurationError(
                f"set_attr({attr_name!r}) names {len(set(self._rows(indices)))} of {self.num_envs} rows, but all rows "
                "share one environment. Leave indices out."
            )
        setattr(self._owner(attr_name) if self.has_attr(attr_name) else self.env.unwrapped, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any) -> list:
        """Call a method of the environment, once, and give every row its result.

        ``action_masks`` alone is per row: sb3-contrib's MaskablePPO stacks what each row returns.
        """
        result = getattr(self._owner(method_name), method_name)(*method_args, **method_kwargs)
        rows = self._rows(indices)
        return [result[row] for row in rows] if method_name == "action_masks" else [result] * len(rows)

    def env_is_wrapped(self, wrapper_class: type, indices: Indices = None) -> list[bool]:
        """Whether a wrapper of this class is around the environment."""
        return [any(isinstance(layer, wrapper_class) for layer in self._layers())] * len(self._rows(indices))

    def _owner(self, name: str) -> VectorEnv:
        """The outermost layer that has an attribute of its own: this adapter, if somebody put one on it."""
        if name in vars(self) and name not in ("env", "infos"):
            return self  # pyright: ignore[reportReturnType]
        for layer in self._layers():
            if name in vars(layer) or any(name in vars(kind) for kind in _own_classes(layer)):
                return layer
        if hasattr(self.env.unwrapped, name):
            return self.env.unwrapped
        raise AttributeError(f"{type(self.env.unwrapped).__name__} has no attribute {name!r}.")

    def _layers(self) -> list[VectorEnv]:
        """The wrappers, outermost first, and the environment."""
        layers = [self.env]
        while layers[-1] is not layers[-1].unwrapped:
            layers.append(layers[-1].env)  # pyright: ignore[reportAttributeAccessIssue]
        return layers

    def _rows(self, indices: Indices) -> list[int]:
        rows = list(self._get_indices(indices))
        wrong = [row for row in rows if not -self.num_envs <= row < self.num_envs]
        if wrong:
            raise IndexError(f"There is no row {wrong[0]}: the environment has {self.num_envs}.")
        return rows


def make_sb3_env(id: str, num_envs: int = 128, *, late_rewards: bool = False, **options: Any) -> SB3VecEnv:
    """``gymnasium.make_vec`` for Stable-Baselines3.

    Args:
        id: ``"GAR/DataSplit-v1"``, ...
        num_envs: Slots, the batch size of the inner training.
        late_rewards: See :class:`SB3VecEnv`.
        **options: Of the environment.

    Raises:
        ConfigurationError: If an option contradicts what SB3 needs.
    """
    for name, needed in (("autoreset_mode", "SameStep"), ("output", "numpy")):
        if name in options:
            raise ConfigurationError(f"Stable-Baselines3 needs {name}={needed!r}, which is set here. Leave {name} out.")
    env = gymnasium.make_vec(id, num_envs=num_envs, autoreset_mode="SameStep", **options)
    return SB3VecEnv(env, late_rewards=late_rewards)


def _own_classes(layer: VectorEnv) -> list[type]:
    """The classes of a layer up to Gymnasium's own: those define everything, and hand it through to the layer below."""
    return [kind for kind in type(layer).__mro__ if not kind.__module__.startswith("gymnasium.vector.vector_env")]


def _check_env(env: Any, late_rewards: bool) -> None:
    if isinstance(env, gymnasium.Env):
        raise ConfigurationError(
            f"{type(env.unwrapped).__name__} is one agent's view of the whole batch. Pass it to Stable-Baselines3 as "
            "it is, or use make_sb3_env(id, num_envs=n) for one action per example."
        )
    if not isinstance(env, VectorEnv):
        raise ConfigurationError(f"SB3VecEnv wraps a gymnasium VectorEnv; found {type(env).__name__}.")
    mode = env.metadata.get("autoreset_mode")
    if mode is not AutoresetMode.SAME_STEP:
        found = mode.value if isinstance(mode, AutoresetMode) else mode
        raise ConfigurationError(
            "Stable-Baselines3 resets in the step that ends an episode; this environment has autoreset_mode="
            f"{found!r}. Use make_sb3_env(...), or make_vec(..., autoreset_mode='SameStep')."
        )
    if getattr(env.unwrapped, "output", "numpy") != "numpy":
        raise ConfigurationError("Stable-Baselines3 works on numpy arrays. Make the environment with output='numpy'.")
    if getattr(env.unwrapped, "reward_timing", "same_step") == "next_step" and not late_rewards:
        raise ConfigurationError(
            "reward_timing='next_step' pays every action one step late, and Stable-Baselines3 credits each reward to "
            "the action just taken. Use reward_timing='same_step'; or late_rewards=True, with an on-policy agent and "
            "rollout_buffer_class=ShiftedRolloutBuffer."
        )
