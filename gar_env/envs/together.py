"""Vector environments whose rows start and end together: Gymnasium's episode protocol, once for all of them."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from gar_env.envs.options import check_device, parse_autoreset_mode
from gar_env.errors import (
    ClosedEnvironmentError,
    ConfigurationError,
    InvalidActionError,
    ResetNeededError,
)
from gar_env.functional import own_surroundings
from gar_env.registry import check_choice, shown

OUTPUTS = ("numpy", "torch")


class Outcome(NamedTuple):
    """What one step came to.

    Args:
        rewards: float ``[n]``.
        ended: Whether the episode is over, for all rows.
        infos: ``{key: (value, valid)}``, each a scalar or ``[n]``; ``valid`` tells where the value means something. A
            number that is absent is NaN.
    """

    rewards: Tensor
    ended: bool
    infos: dict[str, tuple[Any, Any]]


class TogetherVectorEnv(VectorEnv):
    """Base of environments whose rows share one fate.

    Subclasses say how an episode begins (:meth:`_begin`), what a step does (:meth:`_advance`) and what is seen
    (:meth:`_observe`), all in tensors on ``device``; this class checks calls and actions, resets, masks and converts.

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
        if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
            raise ConfigurationError(f"num_envs={shown(num_envs)} must be a whole number, at least 1.")
        check_choice("output", output, OUTPUTS)
        if render_mode is not None:
            check_choice("render_mode", render_mode, self.metadata["render_modes"])
        self.num_envs = num_envs
        self.autoreset_mode = parse_autoreset_mode(autoreset_mode)
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}
        self.output = output
        self.device = check_device(device)
        self.render_mode = render_mode
        self._spec: EnvSpec | None = None
        self._running = False  # between a reset and the end of its episode
        self._ended = False

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
    def _begin(self, seed: int) -> None:
        """Start an episode that depends on ``seed`` alone."""

    @abstractmethod
    def _advance(self, actions: Tensor) -> Outcome:
        """Take one step; ``actions`` are int64, in range, on ``device``."""

    @abstractmethod
    def _observe(self) -> Tensor:
        """float32 ``[n, d]``, a new tensor."""

    @abstractmethod
    def _blank_infos(self) -> dict[str, tuple[Any, Any]]:
        """The keys of :class:`Outcome` ``.infos``, none of them valid: what a reset returns."""

    @own_surroundings()
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode in all rows.

        Args:
            seed: Makes this episode, and all that follow without a seed, repeatable.
            options: ``{"reset_mask": bool [n]}`` is accepted when it is all True.

        Raises:
            ClosedEnvironmentError: After :meth:`close`.
            ConfigurationError: If a reset mask leaves out rows.
        """
        self._check_open()
        self._check_mask(options)
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0):
            raise ConfigurationError(f"seed={shown(seed)} must be a whole number, at least 0, or None.")
        super().reset(seed=seed)
        self._begin_next()
        return self._out(self._observe()), self._info_arrays(self._blank_infos())

    @own_surroundings()
    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step of all rows.

        Args:
            actions: Integers of ``action_space``'s shape, as an array, list or tensor.

        Returns:
            ``(observations [n, d], rewards [n], terminations [n], truncations [n], infos)``.

        Raises:
            ClosedEnvironmentError: After :meth:`close`.
            ResetNeededError: Before the first :meth:`reset`, and after the end with autoreset disabled.
            InvalidActionError: If shape, type or range of the actions do not fit.
        """
        self._check_open()
        if self._ended and self.autoreset_mode is AutoresetMode.NEXT_STEP:
            # The actions were chosen for the finished episode; Gymnasium's protocol ignores them.
            self._begin_next()
            return self._results(Outcome(torch.zeros(self.num_envs), False, self._blank_infos()))
        self._check_started("step")
        if self._ended:
            raise ResetNeededError(
                "The episode has ended and autoreset is disabled. Call reset() before the next step()."
            )
        outcome = self._advance(self._check_actions(actions))
        self._ended, self._running = outcome.ended, not outcome.ended
        if not (outcome.ended and self.autoreset_mode is AutoresetMode.SAME_STEP):
            return self._results(outcome)
        final = self._out(self._observe())
        final_infos = self._info_arrays(outcome.infos)
        self._begin_next()
        observations, rewards, terminations, truncations, infos = self._results(
            outcome._replace(infos=self._blank_infos())
        )
        if self.output == "numpy":
            rows = np.empty(self.num_envs, dtype=object)
            for i, row in enumerate(final):
                rows[i] = row
            final = rows
        infos |= {"final_obs": final, "_final_obs": self._info_array(True)}
        infos |= {"final_info": final_infos, "_final_info": self._info_array(True)}
        return observations, rewards, terminations, truncations, infos

    def action_masks(self) -> np.ndarray:
        """Which actions each row may take, for agents that ask: bool ``[n, choices]``, all True unless overridden.

        With several choices per row (``MultiDiscrete``) their columns follow each other, as sb3-contrib expects.
        """
        space: Any = self.single_action_space
        return np.ones((self.num_envs, int(space.nvec.sum() if hasattr(space, "nvec") else space.n)), dtype=bool)

    def _begin_next(self) -> None:
        self._begin(int(self.np_random.integers(2**62)))
        self._running, self._ended = True, False

    def _results(self, outcome: Outcome) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        return (
            self._out(self._observe()),
            self._out(outcome.rewards),
            self._info_array(outcome.ended),
            self._info_array(False),
            self._info_arrays(outcome.infos),
        )

    def _out(self, tensor: Tensor) -> Any:
        if self.output == "torch":
            return tensor.to(self.device, torch.float32)
        # A copy even on the CPU: Stable-Baselines3 writes into rewards, and buffers keep observations.
        return tensor.detach().cpu().numpy().astype(np.float32, copy=True)

    def _info_arrays(self, infos: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
        arrays = {}
        for key, (value, valid) in infos.items():
            arrays[key] = self._info_array(value)
            arrays[f"_{key}"] = self._info_array(valid)
        return arrays

    def _info_array(self, value: Any) -> Any:
        """A scalar or ``[n]`` value as a fresh ``[n]`` array or tensor, bool or float32."""
        tensor = torch.as_tensor(value, device=self.device).expand(self.num_envs).clone()
        tensor = tensor if tensor.dtype == torch.bool else tensor.to(torch.float32)
        return tensor if self.output == "torch" else tensor.cpu().numpy()

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError("This environment is closed. Make a new one with gymnasium.make_vec(...).")

    def _check_started(self, call: str) -> None:
        self._check_open()
        if not (self._running or self._ended):
            raise ResetNeededError(
                f"{call}() was called before reset(). Call observations, infos = env.reset(seed=...) first."
            )

    def _check_mask(self, options: dict[str, Any] | None) -> None:
        if options is not None and not isinstance(options, dict):
            raise ConfigurationError(f"options={shown(options)} must be a dictionary, or None.")
        if not options or options.get("reset_mask") is None:
            return
        try:
            mask = np.asarray(options["reset_mask"])
        except Exception as error:  # of a tensor that is elsewhere, a ragged list
            raise ConfigurationError(
                f"options['reset_mask']={shown(options['reset_mask'])} cannot be read as an array: {error}"
            ) from error
        if mask.dtype != np.bool_ or mask.shape != (self.num_envs,):
            raise ConfigurationError(
                f"options['reset_mask'] must be bool [{self.num_envs}]; found {mask.dtype} {list(mask.shape)}."
            )
        if not mask.all():
            raise ConfigurationError(
                f"options['reset_mask'] leaves out {int((~mask).sum())} of {self.num_envs} rows, but all rows share "
                "one network and reset together. Pass a mask that is all True, or none."
            )

    def _check_actions(self, actions: Any) -> Tensor:
        shape = self.action_space.shape
        try:
            tensor = actions if isinstance(actions, Tensor) else torch.as_tensor(np.array(actions, order="C"))
            odd = tensor.is_meta or tensor.is_quantized or tensor.is_nested or tensor.layout is not torch.strided
        except Exception as error:  # of somebody's __array__, or of a ragged list
            raise InvalidActionError(f"actions cannot be read as an array of integers: {error}.") from error
        if odd:
            raise InvalidActionError(
                f"actions are a {type(tensor).__name__} that holds no dense numbers; pass integers."
            )
        if tuple(tensor.shape) != shape:
            raise InvalidActionError(
                f"actions have the shape {list(tensor.shape)}; expected {list(shape or ())}, one row per slot."
            )
        if tensor.dtype.is_floating_point or tensor.dtype.is_complex or tensor.dtype == torch.bool:
            raise InvalidActionError(
                f"actions are {tensor.dtype}; expected integers. Convert with actions.astype(int)."
            )
        tensor = tensor.to(self.device, torch.int64)
        limits = torch.as_tensor(self._action_limits, device=self.device)
        wrong = (tensor < 0) | (tensor >= limits)
        if bool(wrong.any()):
            where = wrong.nonzero()[0].tolist()
            value, limit = int(tensor[tuple(where)]), int(limits.expand(tensor.shape)[tuple(where)])
            raise InvalidActionError(
                f"The action of slot {where[0]} is {value}; expected 0..{limit - 1}. "
                f"{int(wrong.sum())} of {tensor.numel()} entries are out of range."
            )
        return tensor

    @property
    def _action_limits(self) -> Any:
        """Exclusive upper bound of each action entry, broadcastable to the actions' shape."""
        space: Any = self.single_action_space
        return space.nvec if hasattr(space, "nvec") else int(space.n)
