"""What a controller's options are, and where they are registered."""

from __future__ import annotations

from typing import Any, Protocol

from gymnasium.vector import VectorEnv

from gar_env.registry import Registry


class ControllerOptions(Protocol):
    """A frozen dataclass whose fields are the controller's options, on the command line too.

    The build gets a vector environment with numpy output and ``SameStep`` autoreset, and returns an
    :class:`agents.Agent` or a Stable-Baselines3 algorithm. An agent is saved by its ``state_dict()``.
    """

    def build(self, env: VectorEnv, seed: int) -> Any:
        """Make the controller for an environment; refuse one that it cannot act in."""
        ...


CONTROLLERS: Registry[type[ControllerOptions]] = Registry("controller")
register_controller = CONTROLLERS.register
