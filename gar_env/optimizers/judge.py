"""What candidates are paid: screened, trained, remembered. No reward sees test data."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from gar_env.errors import ConfigurationError
from gar_env.optimizers.child_rewards import CHILD_REWARDS, ChildReward
from gar_env.optimizers.children import Children, Trained
from gar_env.optimizers.rule import Rule
from gar_env.optimizers.screen import SharedTrajectory
from gar_env.optimizers.table import one_group
from gar_env.registry import shown
from gar_env.state import plain


@plain
class Verdict(NamedTuple):
    """What is known of a candidate.

    Args:
        rule: Its formula.
        reward: What it is paid.
        alignment: Its score on the shared trajectory; NaN if nobody asked.
        trained: What training came to; ``None`` if it was not.
        cached: Whether it had been judged before.
    """

    rule: str
    reward: float
    alignment: float
    trained: Trained | None
    cached: bool


class Judge:
    """Judges rules, each once, however it is written.

    Args:
        children: What is trained.
        reward: Registered; ``"table"`` reads what every function of one group came to (:mod:`.table`).
        seeds: Of children.
        screen: Rules whose alignment is below are rejected without training, and paid what guessing is; ``None``: all
            are trained.
        cache: ``"memory"``; a path, where verdicts stay from one run to the next; ``None``: every rule anew.

    Raises:
        ConfigurationError: If an option is out of range, or the cache was made with other options.
    """

    def __init__(
        self,
        children: Children,
        *,
        reward: str = "validation_accuracy",
        seeds: Sequence[int] = (0, 1, 2),
        screen: float | None = None,
        cache: str | None = "memory",
    ) -> None:
        check_screen(screen)
        CHILD_REWARDS[reward]  # refuses one that there is not
        check_seeds(seeds)
        self.children, self.name, self.seeds, self.screen = children, reward, tuple(seeds), screen
        self._trajectories: dict[int, SharedTrajectory] = {}
        self.known: dict[str, Verdict] = {}
        """Verdicts by canonical formula: what is computed alike bit for bit. Equal functions with other roundings
        (:attr:`Rule.key`) may train to other numbers, and are judged apart."""
        self.cached = cache is not None
        self.file = Path(cache) if cache not in (None, "memory") else None
        self.fingerprint = {
            "children": children.fingerprint, "reward": reward, "seeds": list(seeds), "screen": screen
        }  # fmt: skip
        if self.file is not None:
            if children.fingerprint["unnamed"]:
                raise ConfigurationError(
                    "network is a function without a name of its own, so nobody could tell a cache of one from that of "
                    "another. Use a named function, or cache='memory'."
                )
            self._open(self.file)

    @property
    def reward(self) -> ChildReward:
        """By its name: functions cannot be pickled."""
        return CHILD_REWARDS[self.name]

    @property
    def chance(self) -> float:
        """What a rejected rule is paid."""
        return self.reward.chance(*self._guess)

    @property
    def _guess(self) -> tuple[float, float]:
        outputs = self.children.data.outputs
        return (1 / outputs, math.log(outputs)) if "cross_entropy" in self.children.data.loss else (0.0, 1.0)

    def judge(self, rules: Sequence[Rule]) -> list[Verdict]:
        """A verdict for each rule; those that have one canonical form are trained once.

        Raises:
            ConfigurationError: If one is no rule.
        """
        for rule in rules:
            if not isinstance(rule, Rule):
                raise ConfigurationError(f"rules has {shown(rule)}; expected Rules: Rule('Adam').")
        keys = [str(rule.canonical) for rule in rules]
        known = dict(self.known) if self.cached else {}
        fresh = {key: rule for key, rule in zip(keys, rules, strict=True) if key not in known}
        found = dict(zip(fresh, self._judge(list(fresh.values())), strict=True))
        self.known |= found
        self._keep(found)
        verdicts, seen = [], set(known)
        for key in keys:
            verdicts.append({**known, **found}[key]._replace(cached=key in seen))
            seen.add(key)
        return verdicts

    def _judge(self, rules: list[Rule]) -> list[Verdict]:
        if self.name == "table":
            return [Verdict(str(rule), one_group().of(rule)[0], math.nan, None, False) for rule in rules]
        scores = [math.nan] * len(rules)
        if rules and not self.reward.trains:  # paid, and so the mean over children
            scores = torch.stack([self.trajectory(seed).scores(rules) for seed in self.seeds]).mean(0).tolist()
        elif rules and self.screen is not None:
            scores = self.trajectory(self.seeds[0]).scores(rules).tolist()
        if not self.reward.trains:
            return [Verdict(str(rule), score, score, None, False) for rule, score in zip(rules, scores, strict=True)]
        kept = [i for i, score in enumerate(scores) if self.screen is None or score >= self.screen]
        trained = self.children.train([rules[i] for i in kept], self.seeds, whole=self.reward.whole)
        found = [Verdict(str(rule), self.chance, score, None, False) for rule, score in zip(rules, scores, strict=True)]
        for i, one in zip(kept, trained, strict=True):
            hidden = one._replace(test_accuracy=math.nan)
            found[i] = found[i]._replace(reward=float(self.reward.of(hidden, self._guess[1])), trained=one)
        return found

    def trajectory(self, seed: int) -> SharedTrajectory:
        """Of one child; recorded once."""
        if seed not in self._trajectories:
            self._trajectories[seed] = SharedTrajectory(self.children, seed)
        return self._trajectories[seed]

    def leaderboard(self, count: int = 10) -> list[Verdict]:
        """The best rules so far, best first; where rules are trained, those that were."""
        trained = [one for one in self.known.values() if one.trained is not None or not self.reward.trains]
        return sorted(trained, key=lambda one: -one.reward)[:count]

    def on_fresh_seeds(self, rules: Sequence[Rule], seeds: Sequence[int]) -> list[Trained]:
        """Whole trainings on seeds that no choice has seen: what a score should be said of.

        Raises:
            ConfigurationError: If one of the seeds is among those that rules are judged by.
        """
        check_seeds(seeds)
        used = sorted(set(seeds) & set(self.seeds))
        if used:
            raise ConfigurationError(
                f"Seed {used[0]} is among those that rules were chosen on: {self.seeds}. Use others."
            )
        return self.children.train(rules, seeds)

    def _open(self, file: Path) -> None:
        if not file.exists() or file.stat().st_size == 0:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({"options": self.fingerprint}) + "\n")
            return
        try:
            whole, _, cut = file.read_bytes().rpartition(b"\n")
            header, *rows = [json.loads(line) for line in whole.decode().splitlines()]
            options = header["options"]
            entries = {row["key"]: _verdict(row) for row in rows}
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise ConfigurationError(
                f"cache={shown(str(file))} is no file of verdicts: {error}. Use another path."
            ) from error
        here = json.loads(json.dumps(self.fingerprint))
        if options != here:
            name, before, now = _first_difference(options, here)
            raise ConfigurationError(
                f"The verdicts in {file} are of other options: {name} was {shown(before)}, here it is {shown(now)}. "
                "Use another cache, or the options that it was made with."
            )
        if cut:  # of a process that was killed; the next verdict begins a line
            file.write_bytes(whole + b"\n")
        self.known = entries

    def _keep(self, found: dict[str, Verdict]) -> None:
        if self.file is None or not found:
            return
        with self.file.open("a") as file:
            for key, one in found.items():
                trained = None if one.trained is None else one.trained._asdict()
                file.write(json.dumps({"key": key, **one._asdict(), "trained": trained}) + "\n")


def check_screen(screen: float | None) -> None:
    """Refuse what is no cosine.

    Raises:
        ConfigurationError: With what was found.
    """
    if screen is not None and not -1 <= screen < 1:
        raise ConfigurationError(f"screen={screen} must be at least -1 and below 1: a cosine; or None.")


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuse none, or the same twice.

    Raises:
        ConfigurationError: With what was found.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigurationError(f"seeds={shown(list(seeds))} must be at least one, each once.")


def _verdict(row: dict) -> Verdict:
    trained = row["trained"]
    if trained is not None:
        trained = Trained(**{**trained, "accuracies": tuple(trained["accuracies"])})
    return Verdict(row["rule"], row["reward"], row["alignment"], trained, False)


def _first_difference(before: dict, now: dict) -> tuple[str, object, object]:
    for name in now:
        one, other = before.get(name), now[name]
        if one != other and isinstance(one, dict) and isinstance(other, dict):
            return _first_difference(one, other)
        if one != other:
            return name, one, other
    return "something", before, now
