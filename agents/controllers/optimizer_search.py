"""Controllers of ``GAR/OptimizerSearch-v0`` by name."""

from __future__ import annotations

from dataclasses import dataclass

from gymnasium.vector import VectorEnv

from agents.agent import Agent
from agents.controllers.registry import register_controller
from agents.optimizer_search import PAPER, Evolution, LSTMAgent, LSTMOptions, RandomStrings, StringAgent
from gar_env.registry import check_choice

RECIPES = ("default", "paper")


@register_controller("random-rules")
@dataclass(frozen=True)
class RandomRulesOptions:
    """Update rules at random, each token uniform among those that may stand there."""

    def build(self, env: VectorEnv, seed: int) -> Agent:
        """A controller that never learns."""
        return _begun(RandomStrings(seed), env)


@register_controller("evolution")
@dataclass(frozen=True)
class EvolutionOptions:
    """Regularised evolution of update rules (Real et al., 2019).

    Args:
        population: How many rules live.
        sample: How many a parent is the best of.
    """

    population: int = 64
    sample: int = 16

    def build(self, env: VectorEnv, seed: int) -> Agent:
        """A search that has not begun."""
        return _begun(Evolution(self.population, self.sample, seed=seed), env)


@register_controller("lstm-reinforce")
@dataclass(frozen=True)
class LSTMReinforceOptions:
    """A recurrent network that writes update rules, taught by REINFORCE.

    Args:
        hidden: Units.
        learning_rate: Of Adam.
        entropy: Weight of the bonus.
    """

    hidden: int = 64
    learning_rate: float = 1e-2
    entropy: float = 0.01

    def build(self, env: VectorEnv, seed: int) -> Agent:
        """A search that has not begun."""
        options = LSTMOptions("reinforce", self.hidden, self.learning_rate, self.entropy)
        return _begun(LSTMAgent(options, seed=seed), env)


@register_controller("lstm-ppo")
@dataclass(frozen=True)
class LSTMPPOOptions:
    """A recurrent network that writes update rules, taught by proximal policy optimisation.

    Args:
        hidden: Units.
        learning_rate: Of Adam.
        entropy: Weight of the bonus.
        recipe: "default", or "paper": 150 units, Adam at 1e-5, mini-batches of 5, entropy 0.0015; the options above
            do not count then.
    """

    hidden: int = 64
    learning_rate: float = 5e-3
    entropy: float = 0.01
    recipe: str = "default"

    def build(self, env: VectorEnv, seed: int) -> Agent:
        """A search that has not begun."""
        check_choice("recipe", self.recipe, RECIPES)
        own = LSTMOptions("ppo", self.hidden, self.learning_rate, self.entropy)
        return _begun(LSTMAgent(PAPER if self.recipe == "paper" else own, seed=seed), env)


def _begun(agent: StringAgent, env: VectorEnv) -> StringAgent:
    agent.begin(env)  # refuses other environments at once
    return agent
