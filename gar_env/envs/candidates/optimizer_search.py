"""``GAR/OptimizerSearch-v0``: each row writes an update rule, and is paid by how well small networks train with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.spaces import Discrete, MultiDiscrete, Space
from gymnasium.vector.utils import batch_space
from torch import Tensor

from gar_env.envs.candidates.config import OptimizerSearchConfig
from gar_env.envs.config import config_from
from gar_env.envs.features import Feature, observation_box, observe
from gar_env.envs.outcome import Episode, Infos, Outcome
from gar_env.envs.runs.single import SingleRunEnv
from gar_env.envs.vector import RowVectorEnv
from gar_env.errors import ConfigurationError, InvalidActionError
from gar_env.functional import own_surroundings
from gar_env.optimizers import Rule
from gar_env.optimizers.children import Children, Trained
from gar_env.optimizers.judge import Judge, Verdict
from gar_env.optimizers.table import one_group
from gar_env.seeding import named_generator

NUMBERS = ("validation_accuracy", "validation_loss", "test_accuracy", "step_size")
"""Of :class:`~gar_env.optimizers.children.Trained`, in the infos at the end of an episode."""


class OptimizerSearchVectorEnv(RowVectorEnv):
    """``num_envs`` candidates at once: all are written in lock-step, and all that are new train together.

    With ``encoding="tokens"`` a row chooses one token a step, of those that :meth:`action_masks` allows at that place
    of the string, and is paid at the last one. With ``"flat"`` it chooses them all at once. What a rule is paid does
    not depend on who is judged beside it; with fixed children the same rule is always paid the same, so every rule is
    trained once, however it is written.

    ``test_accuracy`` is told at the end, and no reward sees it. A score of a rule that a search has chosen is
    optimistic: :meth:`on_fresh_seeds`.

    Args:
        num_envs: Candidates.
        **options: Fields of :class:`OptimizerSearchConfig`.

    Raises:
        ConfigurationError: If options contradict each other, or a cache was made with others.

    Source:
        Bello, Zoph, Vasudevan & Le (2017), "Neural Optimizer Search with Reinforcement Learning".

    Version history:
        v0: First version.
    """

    metadata: dict[str, Any] = {**RowVectorEnv.metadata, "render_modes": ["ansi"]}
    rows_end_together = True
    config_class: ClassVar[Any] = OptimizerSearchConfig
    left_out = (*RowVectorEnv.left_out, "observation_space", "judge", "children", "grammar", "dataset", "_used")

    @own_surroundings()
    def __init__(self, num_envs: int = 16, **options: Any) -> None:
        config = config_from(self.config_class, options)
        super().__init__(num_envs, **config.row_options)
        self.config: OptimizerSearchConfig = config
        self.grammar = config.grammar
        self.children = Children(config.child, self.device)
        self.dataset = self.children.data
        self._used: set[int] = set()
        self.judge = self._judge(range(config.child_seeds))
        self.known = self.judge.known
        """Verdicts so far, by canonical formula; part of the state."""
        self.verdicts: list[Verdict] = []
        """Of the rows of the last episode that ended."""
        flat = config.encoding == "flat"
        self.single_action_space: Space[Any] = (
            MultiDiscrete(self.grammar.sizes) if flat else Discrete(len(self.grammar.vocabulary))
        )
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.single_observation_space = observation_box(self.features)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.tokens = torch.full((num_envs, self.grammar.length), -1, device=self.device)
        """What is written so far, int64 ``[n, length]``, -1 for what is not."""
        self.place = 0
        self.last_reward = torch.zeros(num_envs, device=self.device)

    def _judge(self, seeds: range | list[int]) -> Judge:
        config = self.config
        self._used |= set(seeds)
        cache = None if config.resample else config.cache
        return Judge(self.children, reward=config.reward, seeds=list(seeds), screen=config.screen, cache=cache)

    # Episodes

    def start(self, rows: Tensor, seeds: list[int]) -> None:
        """See :meth:`RowVectorEnv.start`."""
        self.tokens = torch.full_like(self.tokens, -1)
        self.place = 0
        self.last_reward = torch.zeros_like(self.last_reward)
        if self.config.resample:
            generator = named_generator(seeds[0], "children")
            fresh = torch.randint(1000, 2**31, (self.config.child_seeds,), generator=generator)
            self.judge = self._judge(fresh.tolist())
            self.known = self.judge.known

    def advance(self, actions: Tensor, live: Tensor) -> Outcome:
        """See :meth:`RowVectorEnv.advance`."""
        if self.config.encoding == "flat":
            self.tokens = actions + torch.tensor(self.grammar.firsts, device=self.device)
            self.place = self.grammar.length
        else:
            self._check_tokens(actions)
            self.tokens = self.tokens.clone()
            self.tokens[:, self.place] = actions
            self.place += 1
        if self.place < self.grammar.length:
            infos = {**self.blank_infos(), "reward_valid": (False, True), "diverged": (False, True)}
            return Outcome(torch.zeros(self.num_envs, device=self.device), False, infos)
        self.verdicts = self.judge.judge(self.rules)
        self.last_reward = torch.tensor([one.reward for one in self.verdicts], device=self.device)
        infos = self._infos()
        self._log(infos)
        return Outcome(self.last_reward.clone(), True, infos)

    def _load(self, state: Mapping[str, Any]) -> None:
        super()._load(state)
        self.judge.known = self.known

    def _check_tokens(self, actions: Tensor) -> None:
        choices = self.grammar.choices(self.place)
        wrong = (actions < choices.start) | (actions >= choices.stop)
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            token = int(actions[row])
            raise InvalidActionError(
                f"The action of row {row} is {token}, {self.grammar.vocabulary[token]!r}, at place {self.place} of the "
                f"string; expected {self.grammar.described(self.place)}.\nChoose by action_masks(), or use "
                "encoding='flat', where every action is valid."
            )

    @property
    def rules(self) -> list[Rule]:
        """What the rows have written; when all is written."""
        return [self.grammar.decode(row) for row in self.tokens.tolist()]

    def action_masks(self) -> np.ndarray:
        """Which tokens may stand at the present place, bool ``[n, V]``; of flat actions, all."""
        if self.config.encoding == "flat":
            return super().action_masks()
        masks = np.zeros((self.num_envs, len(self.grammar.vocabulary)), bool)
        choices = self.grammar.choices(self.place % self.grammar.length)
        masks[:, choices.start : choices.stop] = True
        return masks

    def leaderboard(self, count: int = 10) -> list[Verdict]:
        """The best rules so far, best first; scores are of the seeds that they were chosen on."""
        return self.judge.leaderboard(count)

    def found(self) -> list[dict[str, float | str]]:
        """The hundred best rules: ``reward``, ``step_size``, ``rule``."""
        rows = []
        for one in self.leaderboard(100):
            step_size = math.nan if one.trained is None else one.trained.step_size
            rows.append({"reward": round(one.reward, 6), "step_size": step_size, "rule": one.rule})
        return rows

    def on_fresh_seeds(self, rules: list[Rule], seeds: list[int]) -> list[Trained]:
        """Whole trainings with seeds that nothing was chosen on; see :meth:`Judge.on_fresh_seeds`."""
        used = sorted(set(seeds) & self._used)
        if used:
            raise ConfigurationError(f"Seed {used[0]} is among those that rules were chosen on. Use others.")
        return self.judge.on_fresh_seeds(rules, seeds)

    # Observing

    @property
    def features(self) -> tuple[Feature, ...]:
        """``tokens``: the present place and what is written so far, one-hot. ``flat``: the last reward, squashed."""
        if self.config.encoding == "flat":
            return (Feature("last_reward", -1, 1, "tanh of the row's last reward"),)
        grammar = self.grammar
        places = [Feature(f"place_{i}", 0, 1, "whether this token is due") for i in range(grammar.length)]
        written = [
            Feature(f"token_{i}_{grammar.vocabulary[token]}", 0, 1, "whether it stands there")
            for i in range(grammar.length)
            for token in grammar.choices(i)
        ]
        return (*places, *written)

    def observe(self) -> Tensor:
        """See :meth:`RowVectorEnv.observe`."""
        if self.config.encoding == "flat":
            return observe(self.features, [torch.tanh(self.last_reward)], self.num_envs, self.device)
        grammar = self.grammar
        place = torch.zeros(self.num_envs, grammar.length, device=self.device)
        if self.place < grammar.length:
            place[:, self.place] = 1
        written = [
            (self.tokens[:, i, None] == torch.tensor(list(grammar.choices(i)), device=self.device)).float()
            for i in range(grammar.length)
        ]
        return torch.cat([place, *written], 1)

    # Telling

    def _infos(self) -> Infos:
        trained = [one.trained for one in self.verdicts]
        there = torch.tensor([one is not None for one in trained], device=self.device)
        infos: Infos = {}
        for name in NUMBERS:
            values = [math.nan if one is None else float(getattr(one, name)) for one in trained]
            infos[name] = torch.tensor(values, device=self.device), there
        alignment = torch.tensor([one.alignment for one in self.verdicts], device=self.device)
        diverged = torch.tensor([one is not None and one.diverged for one in trained], device=self.device)
        return {
            **self.blank_infos(),
            **infos,
            "alignment": (alignment, alignment.isfinite()),
            "trained": (there, True),
            "diverged": (diverged, True),
            "reward_valid": (True, True),
        }

    def blank_infos(self) -> Infos:
        """See :meth:`RowVectorEnv.blank_infos`."""
        numbers = dict.fromkeys((*NUMBERS, "alignment"), (math.nan, False))
        return {**numbers, **dict.fromkeys(("trained", "diverged", "reward_valid"), (False, False))}

    def _log(self, infos: Infos) -> None:
        tests = [one.trained.test_accuracy for one in self.verdicts if one.trained is not None]
        values = {
            "steps": float(self.config.longest),
            "return": float(self.last_reward.mean()),
            "diverged": float(infos["diverged"][0].float().mean()),
            "test_accuracy": sum(tests) / len(tests) if tests else math.nan,
        }
        self.finished.append(Episode(None, {**values, **self.metrics()}))

    def metrics(self) -> dict[str, float]:
        """``best_reward`` so far, how many rules were ``judged`` and ``trained``; by the table also the ``regret``."""
        known = list(self.known.values()) or self.verdicts
        if not known:
            return {}
        trained = sum(one.trained is not None for one in known)
        best = max(one.reward for one in known)
        regret = {"regret": one_group().best - best} if self.config.reward == "table" else {}
        return {"best_reward": best, "judged": float(len(known)), "trained": float(trained), **regret}

    def render(self) -> tuple[Any, ...] | None:
        """With ``render_mode="ansi"`` the formula of each row and what it was paid, a string for each."""
        self._check_open()
        if self.render_mode is None:
            return None
        if self.place < self.grammar.length:
            words = self.grammar.vocabulary
            return tuple(" ".join(words[i] for i in row if i >= 0) for row in self.tokens.tolist())
        return tuple(f"{one.rule}  {one.reward:.4f}" for one in self.verdicts)


class OptimizerSearchEnv(SingleRunEnv):
    """One candidate. Options as of :class:`OptimizerSearchVectorEnv`."""

    vector_env_class = OptimizerSearchVectorEnv

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step; the infos leave out what there is not, of a rule that was rejected for example."""
        *found, infos = super().step(action)
        return *found, {name: value for name, value in infos.items() if value == value}  # pyright: ignore

    def action_masks(self) -> np.ndarray:
        """Which tokens may stand at the present place, bool ``[V]``."""
        return self.runs.action_masks()[0]
