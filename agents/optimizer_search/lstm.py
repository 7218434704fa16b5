"""A recurrent controller that writes rules token by token, taught by policy gradient."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from agents.optimizer_search.strings import StringAgent
from gar_env.errors import ConfigurationError
from gar_env.optimizers import Grammar
from gar_env.registry import check_choice, check_positive, shown
from gar_env.seeding import lend_to_global

ALGORITHMS = ("reinforce", "ppo")


@dataclass(frozen=True)
class LSTMOptions:
    """How the controller learns.

    Args:
        algorithm: ``"reinforce"``, or ``"ppo"``: several clipped steps on each batch of strings.
        hidden: Units.
        learning_rate: Of Adam.
        entropy: Weight of the bonus, mean over tokens, in nats.
        baseline_decay: Of the moving average that rewards are taken over, at least 0 and below 1.
        minibatch: Strings of a gradient step; by default all rows.
        epochs: Of PPO over each batch of strings.
        clip: Of PPO.
        initial: Parameters start uniform in ``[-initial, initial]``.

    Raises:
        ConfigurationError: If an option is out of range.

    Source:
        Bello, Zoph, Vasudevan & Le (2017), section 4.1; :data:`PAPER` has its numbers.
    """

    algorithm: str = "reinforce"
    hidden: int = 64
    learning_rate: float = 1e-2
    entropy: float = 0.01
    baseline_decay: float = 0.8
    minibatch: int | None = None
    epochs: int = 4
    clip: float = 0.2
    initial: float = 0.08

    def __post_init__(self) -> None:
        check_choice("algorithm", self.algorithm, ALGORITHMS)
        for name in ("learning_rate", "clip", "initial"):
            check_positive(name, getattr(self, name))
        for name in ("hidden", "epochs") + (() if self.minibatch is None else ("minibatch",)):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise ConfigurationError(f"{name}={shown(getattr(self, name))} must be a whole number, at least 1.")
        if not 0 <= self.baseline_decay < 1 or not 0 <= self.entropy < 1e37:
            raise ConfigurationError(
                f"baseline_decay={self.baseline_decay} must be in [0, 1), entropy={self.entropy} at least 0."
            )


PAPER = LSTMOptions("ppo", hidden=150, learning_rate=1e-5, entropy=0.0015, minibatch=5)
"""Of the paper: one layer of 150 units, Adam at 1e-5, mini-batches of 5, entropy 0.0015, a baseline with decay 0.8."""


class TokenLSTM(nn.Module):
    """``p(token | tokens before it)``, of those that may stand there.

    Args:
        grammar: Of the strings.
        hidden: Units.
        initial: See :class:`LSTMOptions`.
    """

    def __init__(self, grammar: Grammar, hidden: int, initial: float) -> None:
        super().__init__()
        self.words, self.length = len(grammar.vocabulary), grammar.length
        self.embedding = nn.Embedding(self.words + 1, hidden)
        self.cell = nn.LSTMCell(hidden, hidden)
        self.head = nn.Linear(hidden, self.words)
        for p in self.parameters():
            nn.init.uniform_(p, -initial, initial)
        masks = torch.zeros(self.length, self.words, dtype=torch.bool)
        for place in range(self.length):
            masks[place, grammar.choices(place).start : grammar.choices(place).stop] = True
        self.register_buffer("masks", masks, persistent=False)

    def _steps(self, n: int):
        """Log-probabilities ``[n, words]`` place by place; it is sent the tokens that were chosen, ``[n]``."""
        token, state = torch.full((n,), self.words), None
        for place in range(self.length):
            state = self.cell(self.embedding(token), state)
            logits = self.head(state[0]).masked_fill(~self.masks[place], -1e9)  # pyright: ignore
            token = yield logits.log_softmax(1)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Strings, int64 ``[n, length]``."""
        steps, chosen = self._steps(n), []
        found = next(steps)
        while len(chosen) < self.length:
            chosen.append(torch.multinomial(found.exp(), 1, generator=generator).flatten())
            if len(chosen) < self.length:
                found = steps.send(chosen[-1])
        return torch.stack(chosen, 1)

    def forward(self, strings: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of strings ``[n]``, and the mean entropy of their tokens in nats ``[n]``."""
        steps = self._steps(len(strings))
        found, total, entropy = next(steps), torch.zeros(len(strings)), torch.zeros(len(strings))
        for place in range(self.length):
            total = total + found.gather(1, strings[:, place, None]).flatten()
            entropy = entropy - (found.exp() * found).sum(1)
            if place + 1 < self.length:
                found = steps.send(strings[:, place])
        return total, entropy / self.length


class LSTMAgent(StringAgent):
    """REINFORCE or PPO on :class:`TokenLSTM`.

    Args:
        options: How it learns.
        seed: Of its parameters and what it draws.
    """

    def __init__(self, options: LSTMOptions | None = None, *, seed: int = 0) -> None:
        super().__init__(seed)
        self.options = options or LSTMOptions()
        self.baseline: float | None = None

    def prepare(self) -> None:
        """See :class:`StringAgent`."""
        assert self.grammar is not None
        with lend_to_global(self.generator):
            self.network = TokenLSTM(self.grammar, self.options.hidden, self.options.initial)
        self.optimizer = torch.optim.Adam(self.network.parameters(), self.options.learning_rate)

    def propose(self, n: int) -> Tensor:
        """See :class:`StringAgent`."""
        return self.network.sample(n, self.generator)

    def tell(self, strings: Tensor, rewards: Tensor) -> None:
        """See :class:`StringAgent`."""
        options, mean = self.options, float(rewards.mean())
        decay = options.baseline_decay
        over = rewards - (mean if self.baseline is None else self.baseline)
        self.baseline = mean if self.baseline is None else decay * self.baseline + (1 - decay) * mean
        ppo = options.algorithm == "ppo"
        with torch.no_grad():
            before = self.network(strings)[0] if ppo else None
        size = options.minibatch or len(strings)
        for _ in range(options.epochs if ppo else 1):
            for some in torch.randperm(len(strings), generator=self.generator).split(size):
                log_probability, entropy = self.network(strings[some])
                if before is None:
                    gain = over[some] * log_probability
                else:
                    ratio = (log_probability - before[some]).exp()
                    clipped = ratio.clamp(1 - options.clip, 1 + options.clip)
                    gain = torch.minimum(ratio * over[some], clipped * over[some])
                loss = -(gain + options.entropy * entropy).mean()
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """See :class:`StringAgent`."""
        if self.grammar is None:
            return super().state_dict()
        baseline = torch.nan if self.baseline is None else self.baseline
        learned = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(), "baseline": baseline}
        return copy.deepcopy({**super().state_dict(), **learned})  # what goes on learning must not change a state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`StringAgent`; after :meth:`begin`."""
        super().load_state_dict(state)
        if "network" in state:
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
            self.baseline = None if state["baseline"] != state["baseline"] else float(state["baseline"])
