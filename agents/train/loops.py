"""A controller and an environment, running: the native loop, and Stable-Baselines3's.

A session is pickled into checkpoints whole, at moments when nothing is half done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from gymnasium.vector import VectorEnv

from agents.agent import Agent
from gar_env.errors import ConfigurationError, GarEnvError
from gar_env.registry import shown


class Hooks(Protocol):
    """What a session calls while it runs."""

    def on_step(self) -> None:
        """After each environment step."""
        ...

    def at_rest(self) -> None:
        """When the session can be saved; may raise to stop it."""
        ...


class NativeSession:
    """Our own agents: act, step, learn; the environment resets itself.

    Args:
        env: With ``SameStep`` autoreset and numpy output.
        agent: The controller.
        seed: Of the first episode.
    """

    def __init__(self, env: VectorEnv, agent: Agent, seed: int) -> None:
        self.env, self.agent, self.steps = env, agent, 0
        self.finished: dict[str, float] = {}  # what the last logged episode came to
        self.seconds = 0.0  # taken up to the last checkpoint
        self.observations, _ = env.reset(seed=seed)
        agent.begin(env)

    def run(self, steps: int, hooks: Hooks) -> None:
        """Go on until ``steps`` environment steps are done in all."""
        hooks.at_rest()
        while self.steps < steps:
            actions = self.agent.act(self.observations)
            self.observations, rewards, terminations, truncations, infos = self.env.step(actions)
            self.agent.learn(rewards, infos)
            if (terminations | truncations).all():
                self.agent.begin(self.env)
            self.steps += 1
            hooks.on_step()
            hooks.at_rest()

    def logged(self) -> dict[str, float]:
        """What the controller says of its own learning: ours say nothing."""
        return {}

    def leave_out(self) -> dict[str, Any]:
        """Objects that belong to this process and not into a checkpoint."""
        return {}


class SB3Session:
    """A Stable-Baselines3 algorithm in its own ``learn`` loop.

    Args:
        model: On an :class:`agents.sb3.SB3VecEnv`.
        seed: Of the first episode.
    """

    def __init__(self, model: Any, seed: int) -> None:
        from agents.sb3.checks import slots_of

        self.model, self.steps, self.started = model, 0, False
        self.finished: dict[str, float] = {}  # what the last logged episode came to
        self.seconds = 0.0  # taken up to the last checkpoint
        adapter = slots_of(model)
        assert adapter is not None
        self.env, self.num_envs = adapter.env, adapter.num_envs
        self.model.env.seed(seed)
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

    def leave_out(self) -> dict[str, Any]:
        """SB3's logger, which belongs to this process; a resumed session sets its own."""
        return {"logger": self.model.logger}

    def __getstate__(self) -> dict[str, Any]:
        # VecNormalize leaves its environment and its running returns out of its own state.
        normalize = self.model.get_vec_normalize_env()
        kept = None if normalize is None else (normalize.venv, normalize.returns)
        return {**self.__dict__, "normalize": kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        kept = state.pop("normalize")
        self.__dict__.update(state)
        if kept is not None:
            normalize = self.model.get_vec_normalize_env()
            normalize.set_venv(kept[0])
            normalize.returns = kept[1]


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


def start_session(env: VectorEnv, build: Callable[[VectorEnv, int], Any], seed: int) -> Session:
    """Build a controller and the session that runs it.

    Raises:
        ConfigurationError: If what was built is no controller.
    """
    controller = build(env, seed)
    if hasattr(controller, "act"):
        return NativeSession(env, controller, seed)
    if not hasattr(controller, "get_env"):
        raise ConfigurationError(
            f"The controller's build returned {shown(controller)}; expected an agents.Agent, or an algorithm of "
            "Stable-Baselines3."
        )
    return SB3Session(controller, seed)
