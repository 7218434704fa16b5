"""A controller and an environment, running: the native loop, and Stable-Baselines3's.

A session's state is taken at moments when nothing is half done.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, Protocol

import cloudpickle
from gymnasium.vector import VectorEnv

from agents.agent import Agent, taken
from gar_env.errors import CheckpointError, ConfigurationError, GarEnvError
from gar_env.registry import shown
from gar_env.state import has_state


class Hooks(Protocol):
    """What a session calls while it runs."""

    def on_step(self) -> None:
        """After each environment step."""
        ...

    def at_rest(self) -> None:
        """When the session can be saved; may raise to stop it."""
        ...


class NativeSession:
    """Our own agents: act, step, learn; rows reset themselves.

    Args:
        env: With ``SameStep`` autoreset and numpy output.
        agent: The controller.
        seed: Of the first episodes.
        trust: Whether an agent without ``state_dict()`` is pickled instead.

    Raises:
        ConfigurationError: If it has none, and is not trusted.
    """

    def __init__(self, env: VectorEnv, agent: Agent, seed: int, *, trust: bool = False) -> None:
        self.pickles = not has_state(agent)
        if self.pickles and not trust:
            raise ConfigurationError(
                f"{type(agent).__name__} has no state_dict() and load_state_dict(), so its run could not be saved as "
                "data. Give it both, or train with --trust: it is then pickled, and the run can be resumed only by "
                "who trusts its files."
            )
        self.env, self.agent, self.steps = env, agent, 0
        self.finished: dict[str, float] = {}  # what the last logged episode came to
        self.seconds = 0.0  # taken up to the last checkpoint
        self.observations, _ = env.reset(seed=seed)
        agent.begin(env)

    def run(self, steps: int, hooks: Hooks) -> None:
        """Go on until ``steps`` environment steps are done in all."""
        hooks.at_rest()
        while self.steps < steps:
            actions = taken(self.env, self.agent.act(self.observations))
            self.observations, rewards, terminations, truncations, infos = self.env.step(actions)
            ended = terminations | truncations
            self.agent.learn(rewards, ended, infos)
            if ended.all() and getattr(self.env.unwrapped, "rows_end_together", False):
                self.agent.begin(self.env)
            self.steps += 1
            hooks.on_step()
            hooks.at_rest()

    def logged(self) -> dict[str, float]:
        """What the controller says of its own learning: ours say nothing."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """All that goes on."""
        agent: Any = self.agent
        return {
            **_progress(self),
            "observations": self.observations,
            "env": state_of(self.env),
            "agent": cloudpickle.dumps(agent) if self.pickles else agent.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state_dict` of a session that was built alike."""
        _set_progress(self, state)
        self.observations = state["observations"]
        load_state_of(self.env, state["env"])
        if isinstance(state["agent"], bytes) is not self.pickles:
            raise CheckpointError("The controller was saved in another way than this one is.")
        if self.pickles:  # only where it is trusted: see above
            self.agent = pickle.loads(state["agent"])
        else:
            agent: Any = self.agent
            agent.load_state_dict(state["agent"])


class SB3Session:
    """A Stable-Baselines3 algorithm in its own ``learn`` loop.

    Args:
        model: On an :class:`agents.sb3.SB3VecEnv`.
        seed: Of the first episode.
    """

    def __init__(self, model: Any, seed: int) -> None:
        from agents.sb3.checks import adapter_of

        self.model, self.steps, self.started, self.pickles = model, 0, False, False
        self.finished: dict[str, float] = {}  # what the last logged episode came to
        self.seconds = 0.0  # taken up to the last checkpoint
        adapter = adapter_of(model)
        assert adapter is not None
        self.env, self.num_envs = adapter.env, adapter.num_envs
        self.model.env.seed(seed)
        self._made = frozenset(vars(model))
        self._logged: dict[str, float] = {}
        self._pending: tuple[dict, dict, dict] | None = None  # what SB3 recorded and has not dumped yet

    def run(self, steps: int, hooks: Hooks) -> None:
        """Go on until ``steps`` environment steps are done in all; SB3 finishes its rollout."""
        from stable_baselines3.common.logger import KVWriter, Logger

        session = self

        class Keep(KVWriter):
            """Takes what SB3 dumps."""

            def write(self, key_values: dict, key_excluded: dict, step: int = 0) -> None:
                session._logged = {k: v for k, v in key_values.items() if isinstance(v, (int, float))}

            def close(self) -> None:
                pass

        logger = Logger(None, [Keep()])
        if self._pending:
            logger.name_to_value.update(self._pending[0])
            logger.name_to_count.update(self._pending[1])
            logger.name_to_excluded.update(self._pending[2])
        self.model.set_logger(logger)
        try:
            self.model.learn(
                steps * self.num_envs - self.model.num_timesteps,
                callback=_callback(self, hooks),
                reset_num_timesteps=not self.started,
                log_interval=1,
            )
        except GarEnvError:
            raise
        except ValueError as error:
            if all(bool(p.isfinite().all()) for p in self.model.policy.parameters()):
                raise
            raise ConfigurationError(
                f"The policy of {type(self.model).__name__} has become NaN or infinite after {self.steps} steps. Train "
                "again with a lower learning_rate."
            ) from error
        self._remember()
        hooks.at_rest()

    def _remember(self) -> None:
        logger = self.model.logger
        self._pending = dict(logger.name_to_value), dict(logger.name_to_count), dict(logger.name_to_excluded)

    def logged(self) -> dict[str, float]:
        """SB3's latest ``train/`` values."""
        return {key: value for key, value in self._logged.items() if key.startswith("train/")}

    def state_dict(self) -> dict[str, Any]:
        """All that goes on."""
        from agents.sb3.state import model_state

        own = {"started": self.started, "logged": self._logged, "pending": self._pending}
        return {**_progress(self), **own, "env": state_of(self.env), "model": model_state(self.model, self._made)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state_dict` of a session that was built alike."""
        from agents.sb3.state import load_model_state

        _set_progress(self, state)
        self.started, self._logged, self._pending = state["started"], state["logged"], state["pending"]
        if self.model.env is not None:
            self.model.env.reset()  # its adapter is then where rows are running
        load_state_of(self.env, state["env"])
        load_model_state(self.model, state["model"])


def _callback(session: SB3Session, hooks: Hooks) -> Any:
    from stable_baselines3.common.callbacks import BaseCallback

    class Callback(BaseCallback):
        """Between rollouts, SB3 has no state outside the model."""

        def _on_training_start(self) -> None:
            session.started = True

        def _on_rollout_start(self) -> None:
            session._remember()
            hooks.at_rest()

        def _on_step(self) -> bool:
            session.steps += 1
            hooks.on_step()
            return True

    return Callback()


Session = NativeSession | SB3Session


def start_session(env: VectorEnv, build: Callable[[VectorEnv, int], Any], seed: int, *, trust: bool = False) -> Session:
    """Build a controller and the session that runs it.

    Args:
        env: With ``SameStep`` autoreset and numpy output.
        build: Of the controller's options.
        seed: Of the first episodes.
        trust: See :class:`NativeSession`.

    Raises:
        ConfigurationError: If what was built is no controller, or one that cannot be saved.
    """
    controller = build(env, seed)
    if hasattr(controller, "act"):
        return NativeSession(env, controller, seed, trust=trust)
    if not hasattr(controller, "get_env"):
        raise ConfigurationError(
            f"The controller's build returned {shown(controller)}; expected an agents.Agent, or an algorithm of "
            "Stable-Baselines3."
        )
    return SB3Session(controller, seed)


def state_of(env: VectorEnv) -> dict[str, Any]:
    """Of an environment below its wrappers."""
    return _stateful(env).state_dict()


def load_state_of(env: VectorEnv, state: dict[str, Any]) -> None:
    """Likewise."""
    _stateful(env).load_state_dict(state)


def _stateful(env: VectorEnv) -> Any:
    if not has_state(env.unwrapped):
        raise ConfigurationError(
            f"{type(env.unwrapped).__name__} has no state_dict() and load_state_dict(), so its run cannot be saved. "
            "Environments of gar_env have both."
        )
    return env.unwrapped


def _progress(session: Session) -> dict[str, Any]:
    return {"steps": session.steps, "finished": session.finished, "seconds": session.seconds}


def _set_progress(session: Session, state: dict[str, Any]) -> None:
    steps, seconds, finished = state["steps"], state["seconds"], state["finished"]
    numbers = isinstance(finished, dict) and all(
        isinstance(name, str) and isinstance(value, int | float) for name, value in finished.items()
    )
    if type(steps) is not int or not 0 <= steps < 2**40 or not isinstance(seconds, int | float) or not numbers:
        raise CheckpointError("The state says no steps, seconds or results that a run can have.")
    session.steps, session.finished, session.seconds = state["steps"], state["finished"], state["seconds"]
