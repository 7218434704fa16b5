"""Vector environments row by row: Gymnasium's episode protocol, once for all of them.

A row is what one action belongs to. Rows that share a network start and end together; others, training runs of their
own for example, end apart. This is the one file that knows about autoreset.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from gar_env.envs.calls import checked_actions, mask_of
from gar_env.envs.features import Feature
from gar_env.envs.options import check_device, parse_autoreset_mode
from gar_env.envs.outcome import Episode, Infos, Leaving, Outcome
from gar_env.errors import (
    CheckpointError,
    ClosedEnvironmentError,
    ConfigurationError,
    ResetNeededError,
)
from gar_env.functional import own_surroundings
from gar_env.registry import check_choice, shown
from gar_env.state import as_data, attributes, from_data, set_attributes

OUTPUTS = ("numpy", "torch")

MOST_ROWS = 2**24
"""Of an environment: their numbers alone take gigabytes then."""


class RowVectorEnv(VectorEnv):
    """Base of all environments.

    Subclasses say how rows start (:meth:`start`), what a step does (:meth:`advance`) and what is seen
    (:meth:`observe`), all in tensors on ``device``; this class checks calls and actions, resets, masks and converts.

    Where rows end apart, row ``r``'s ``k``-th episode depends on its seed and ``k`` alone. ``reset(seed=s)`` gives row
    ``r`` the seed ``s + r``, as Gymnasium's vectorizers do; ``reset(seed=[...])`` one to each.

    Args:
        num_envs: How many rows.
        autoreset_mode: A string or ``AutoresetMode``.
        output: ``"numpy"``: fresh arrays. ``"torch"``: tensors on ``device``.
        device: Where the work is done.
        render_mode: ``"ansi"``, ``"rgb_array"`` or ``None``.

    Raises:
        ConfigurationError: If an option is none of its choices.
        DeviceError: If the device is not there.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 10}

    rows_end_together: ClassVar[bool]
    """Whether all rows share one fate: they start, end and are reset at once."""

    def __init__(
        self,
        num_envs: int,
        *,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        output: str = "numpy",
        device: str = "cpu",
        render_mode: str | None = None,
    ) -> None:
        super().__init__()
        if isinstance(num_envs, bool) or not isinstance(num_envs, int) or not 1 <= num_envs <= MOST_ROWS:
            raise ConfigurationError(
                f"num_envs={shown(num_envs)} must be a whole number, at least 1, at most {MOST_ROWS}."
            )
        check_choice("output", output, OUTPUTS)
        if render_mode is not None:
            check_choice("render_mode", render_mode, self.metadata["render_modes"])
        self.num_envs = num_envs
        self.autoreset_mode = parse_autoreset_mode(autoreset_mode)
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}
        self.output = output
        self.device = check_device(device)
        self.render_mode = render_mode
        self._leaving = Leaving(num_envs, output, self.device)
        self._spec: EnvSpec | None = None
        self.finished: deque[Episode] = deque(maxlen=max(num_envs, 100))
        """Episodes that ended since somebody emptied it."""
        self._paid = torch.zeros(num_envs, device=self.device), torch.ones(num_envs, dtype=torch.bool)
        self._started = np.zeros(num_envs, bool)  # by a reset, once
        self._ended = np.zeros(num_envs, bool)
        self._made: tuple[str, ...] = ()  # names of attributes that are there when it is built; by the first reset
        self._running = [0] * num_envs  # the seed of each row's present episode; one where they end together
        self._seeds = [0] * num_envs
        self._episodes = [0] * num_envs

    @property
    def spec(self) -> EnvSpec | None:
        """How the environment was made; an enum among its options is kept as its string, so that it has a JSON form."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        if spec is not None:
            for name, value in spec.kwargs.items():
                if isinstance(value, AutoresetMode):
                    spec.kwargs[name] = value.value
        self._spec = spec

    @abstractmethod
    def start(self, rows: Tensor, seeds: list[int]) -> None:
        """Start episodes.

        Args:
            rows: bool ``[n]``; all of them where rows end together.
            seeds: One for each of these rows, in order, and nothing else may decide what happens in them; a single one
                where rows end together.
        """

    @abstractmethod
    def advance(self, actions: Tensor, live: Tensor) -> Outcome:
        """Take one step.

        Args:
            actions: On ``device``, checked where ``live``: int64, or float32 where they are a ``Box``.
            live: bool ``[n]``: whose episode goes on; others must not change. All where rows end together.
        """

    @abstractmethod
    def observe(self) -> Tensor:
        """float32 ``[n, d]``, a new tensor."""

    @property
    def features(self) -> tuple[Feature, ...]:
        """The columns of an observation, for people and for agents that ask."""
        return ()

    @property
    def observation_names(self) -> tuple[str, ...]:
        """The name of each observation column."""
        return tuple(feature.name for feature in self.features)

    def metrics(self) -> dict[str, float]:
        """What is worth logging about these episodes so far, by name. Waits for the device."""
        return {}

    def found(self) -> list[dict[str, float | str]]:
        """What is worth keeping of all episodes so far, best first: rows of a table. Nothing, unless overridden."""
        return []

    def last_step(self) -> dict[str, float]:
        """``reward_mean`` and ``reward_std`` of the last step over the rows that took it, also if it ended episodes."""
        rewards, live = self._paid
        paid = rewards[live]
        return {"reward_mean": float(paid.mean()), "reward_std": float(paid.std(correction=0))}

    @abstractmethod
    def blank_infos(self) -> Infos:
        """The keys of :class:`Outcome` ``.infos``, none of them valid: what a reset returns."""

    @own_surroundings()
    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start episodes.

        Args:
            seed: Makes these episodes, and all that follow without a seed, repeatable; a list where rows end apart.
            options: ``{"reset_mask": bool [n]}``: which rows. Where rows end together, all or none are left out.

        Returns:
            Observations of all rows, and infos.

        Raises:
            ClosedEnvironmentError: After :meth:`close`.
            ConfigurationError: If the seed or the mask do not fit.
            ResetNeededError: If a row that the mask leaves out has not been reset yet.
        """
        self._check_open()
        self._made = self._made or tuple(vars(self))
        rows = mask_of(options, self.num_envs, together=self.rows_end_together)
        self._check_seed(seed)
        left = ~rows & ~self._started
        if left.any():
            raise ResetNeededError(f"Row {int(np.flatnonzero(left)[0])} has not been reset yet. Reset all rows first.")
        self._seed(seed, rows)
        self._start(rows)
        return self._leaving.numbers(self.observe()), self._leaving.infos(self.blank_infos())

    @own_surroundings()
    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step of all rows.

        Args:
            actions: Of ``action_space``'s shape, as an array, list or tensor.

        Returns:
            ``(observations [n, d], rewards [n], terminations [n], truncations [n], infos)``.

        Raises:
            ClosedEnvironmentError: After :meth:`close`.
            ResetNeededError: Before the first :meth:`reset`, and of an ended row with autoreset disabled.
            InvalidActionError: If shape, type or range of the actions do not fit.
        """
        self._check_open()
        self._check_started("step")
        restarting = self._ended.copy()
        if restarting.any() and self.autoreset_mode is not AutoresetMode.NEXT_STEP:
            which = "" if self.rows_end_together else f" of row {int(np.flatnonzero(restarting)[0])}"
            raise ResetNeededError(
                f"The episode{which} has ended and autoreset is disabled. Call reset() before the next step()."
            )
        live = ~restarting
        on_device = torch.as_tensor(live, device=self.device)
        # Before anything moves: after an action that is refused, the same step can be taken again.
        chosen = checked_actions(actions, self.single_action_space, on_device) if live.any() else None
        if restarting.any():  # their actions were chosen for the finished episode; Gymnasium's protocol ignores them
            self._start(restarting)
        if chosen is None:
            return self._results(self.observe(), torch.zeros(self.num_envs), False, False, self.blank_infos())
        outcome = self.advance(chosen, on_device)
        rewards, infos = outcome.rewards, outcome.infos
        self._paid = rewards.clone() if self.output == "torch" else rewards, on_device
        terminated, truncated = (
            self._leaving.array(outcome.terminated, bool),
            self._leaving.array(outcome.truncated, bool),
        )
        if restarting.any():
            terminated, truncated = terminated & live, truncated & live
            rewards = torch.where(on_device, rewards, 0)
            infos = self._only(infos, live)
        self._ended = terminated | truncated
        if not (self._ended.any() and self.autoreset_mode is AutoresetMode.SAME_STEP):
            return self._results(self.observe(), rewards, terminated, truncated, infos)
        ended = self._ended.copy()
        final, final_infos = self._final(ended), self._leaving.infos(self._only(infos, ended))
        self._start(ended)
        found = self._results(self.observe(), rewards, terminated, truncated, self._only(infos, ~ended))
        found[4].update({"final_obs": final, "_final_obs": self._leaving.column(ended)})
        found[4].update({"final_info": final_infos, "_final_info": self._leaving.column(ended)})
        return found

    left_out: ClassVar[tuple[str, ...]] = (
        *("_spec", "single_action_space", "action_space", "single_observation_space", "num_envs", "output"),
        *("render_mode", "device", "autoreset_mode", "metadata", "reward_timing", "closed"),
    )
    """Attributes that the options make again: no part of the state."""

    packed: ClassVar[tuple[str, ...]] = ()
    """Attributes that a subclass puts into the state, and takes out of it, by itself."""

    def state_dict(self) -> dict[str, Any]:
        """All that the next steps depend on, as data: see :func:`gar_env.state.attributes`.

        What a subclass keeps in its attributes is in it, if it is made of numbers and tensors.

        Raises:
            NotDataError: If an attribute that came after the environment was made is no data.
        """
        self._check_started("state_dict")
        return {"made": as_data(self._identity()), **self._attributes()}

    @own_surroundings()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict` of an environment that was made alike, bit for bit on the CPU.

        Raises:
            CheckpointError: If the state is damaged, or belongs to another environment; reset it before it goes on.
        """
        self._check_open()
        self._made = self._made or tuple(vars(self))
        name = type(self).__name__
        if not isinstance(state, Mapping) or not {"made", "_running"} <= state.keys():
            raise CheckpointError(f"{shown(state)} is no state of {name}.")
        made, here = from_data(state["made"]), self._identity()
        differing = [key for key in here if not isinstance(made, dict) or made.get(key) != here[key]]
        if differing:
            key = differing[0]
            was = made.get(key) if isinstance(made, dict) else made
            raise CheckpointError(
                f"The state belongs to another {name}: {key} was {shown(was)}, here it is {shown(here[key])}. "
                "Make the environment as it was made then."
            )
        try:
            self.start(torch.ones(self.num_envs, dtype=torch.bool, device=self.device), list(state["_running"]))
            self._started[:] = True
            missing = self._attributes().keys() - state.keys()
            foreign = state.keys() & set(self.left_out)
            if foreign:
                raise CheckpointError(f"{name}.{min(foreign)} is made by its options, and no part of a state.")
            if missing:
                raise CheckpointError(f"The state lacks {', '.join(sorted(missing)[:5])}.")
            self._load({key: value for key, value in state.items() if key != "made"})
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError, OverflowError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(
                f"The state does not fit this {name}: {type(error).__name__}: {str(error)[:200]}"
            ) from error

    def _attributes(self) -> dict[str, Any]:
        return attributes(self, made=self._made, left_out=(*self.left_out, *self.packed))

    def _load(self, state: Mapping[str, Any]) -> None:
        """Take the attributes of a state; what they belong to has just been started."""
        set_attributes(self, state, device=self.device)

    def _identity(self) -> dict[str, Any]:
        """What tells this environment from others, in plain values."""
        config: Any = getattr(self, "config", None)
        fields = (
            {} if config is None else {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
        )
        # The elements of tuples are numbers or text: check_types.
        plain = {k: value for k, value in fields.items() if isinstance(value, bool | int | float | str | tuple | None)}
        for key in ("device", "output", "render_mode", "autoreset_mode", "download", "dataset", "space"):
            plain.pop(key, None)
        mode = self.autoreset_mode.value
        return {"environment": type(self).__qualname__, "num_envs": self.num_envs, "autoreset_mode": mode, **plain}

    def action_masks(self) -> np.ndarray:
        """Which actions each row may take, for agents that ask: bool ``[n, choices]``, all True unless overridden.

        With several choices per row (``MultiDiscrete``) their columns follow each other, as sb3-contrib expects.
        """
        space: Any = self.single_action_space
        return np.ones((self.num_envs, int(space.nvec.sum() if hasattr(space, "nvec") else space.n)), dtype=bool)

    def _seed(self, seed: int | list[int | None] | None, rows: np.ndarray) -> None:
        if self.rows_end_together or not isinstance(seed, list):
            super().reset(seed=None if seed is None or isinstance(seed, list) else int(seed))
        if self.rows_end_together:
            return
        fresh = rows & ~self._started
        if seed is None and not fresh.any():
            return  # their next episodes
        numbers = np.flatnonzero(fresh if seed is None else rows)
        for row in numbers:
            if isinstance(seed, list):
                own = seed[row]
                self._seeds[row] = int(self.np_random.integers(2**62)) if own is None else int(own)
            else:
                self._seeds[row] = int(self.np_random.integers(2**62)) if seed is None else int(seed + row)
            self._episodes[row] = 0

    def _start(self, rows: np.ndarray) -> None:
        if self.rows_end_together:
            seeds = [int(self.np_random.integers(2**62))]
        else:
            seeds = []
            for row in np.flatnonzero(rows):
                sequence = np.random.SeedSequence(self._seeds[row], spawn_key=(self._episodes[row],))
                seeds.append(int(sequence.generate_state(1, np.uint64)[0] >> 2))
                self._episodes[row] += 1
        self.start(torch.as_tensor(rows, device=self.device), seeds)
        if self.rows_end_together:
            self._running = seeds
        else:
            for row, seed in zip(np.flatnonzero(rows), seeds, strict=True):
                self._running[row] = seed
        self._started |= rows
        self._ended &= ~rows

    def _final(self, ended: np.ndarray) -> Any:
        """The observations that rows ended with; in an array, ``None`` for the others."""
        final = self._leaving.numbers(self.observe())
        if self.output == "torch":
            return final
        rows = np.empty(self.num_envs, dtype=object)
        for i in np.flatnonzero(ended):
            rows[i] = final[i]
        return rows

    def _only(self, infos: Infos, rows: np.ndarray) -> Infos:
        """Infos of these rows; blank ones for the others."""
        blank = self.blank_infos()
        if not rows.any():
            return blank
        chosen = torch.as_tensor(rows, device=self.device)
        found: Infos = {}
        for key, (value, valid) in infos.items():
            own, other = (self._leaving.tensor(v) for v in (value, blank[key][0]))
            mask = chosen.view(-1, *[1] * (own.ndim - 1))
            found[key] = torch.where(mask, own, other), self._leaving.array(valid, bool) & rows
        return found

    def _results(
        self, observations: Tensor, rewards: Tensor, terminated: Any, truncated: Any, infos: Infos
    ) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        return (
            self._leaving.numbers(observations),
            self._leaving.numbers(rewards),
            self._leaving.column(terminated),
            self._leaving.column(truncated),
            self._leaving.infos(infos),
        )

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError("This environment is closed. Make a new one with gymnasium.make_vec(...).")

    def _check_started(self, call: str) -> None:
        self._check_open()
        if not self._started.any():
            raise ResetNeededError(
                f"{call}() was called before reset(). Call observations, infos = env.reset(seed=...) first."
            )

    def _check_seed(self, seed: Any) -> None:
        def fits(one: Any) -> bool:
            return not isinstance(one, bool) and isinstance(one, int | np.integer) and int(one) >= 0

        if isinstance(seed, list) and not self.rows_end_together:
            if len(seed) != self.num_envs or not all(one is None or fits(one) for one in seed):
                raise ConfigurationError(
                    f"seed={shown(seed)} must be {self.num_envs} whole numbers, at least 0 each, or None."
                )
        elif seed is not None and not fits(seed):
            raise ConfigurationError(f"seed={shown(seed)} must be a whole number, at least 0, or None.")
