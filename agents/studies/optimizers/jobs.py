"""Runs of ``gar-env reproduce optimizers``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import gymnasium
import numpy as np
import torch

import gar_env  # noqa: F401 - registers the environments
from agents.controllers import CONTROLLERS
from agents.jobs.provenance import fingerprint, provenance
from agents.jobs.results import Row
from agents.studies.optimizers.cases import CHILDREN, EQUAL, FRESH, REFERENCES, ROWS, SEARCHED_ON, SEARCHES, TRAINS
from agents.training.loops import start_session
from gar_env.optimizers import Grammar, Rule, build_optimizer_rule
from gar_env.optimizers.child_options import ChildOptions
from gar_env.optimizers.children import Children
from gar_env.optimizers.screen import THRESHOLD, SharedTrajectory

FEW, RESAMPLES = 5, 1000
"""Rules that train, and that do not, to compare signals by; and how often they are drawn again for intervals."""


def children_of(child: str, cifar10: str, device: str) -> Children:
    """By the name of a case."""
    options = dict(CHILDREN[child])
    if options.get("dataset") == "cifar10":
        options |= {"dataset": cifar10}
    return Children(ChildOptions(**options), device)


@lru_cache(maxsize=8)
def fingerprint_of_children(child: str, cifar10: str) -> str:
    """Tells children from others."""
    return fingerprint(children_of(child, cifar10, "cpu").fingerprint)


@dataclass(frozen=True)
class OptimizerJob:
    """One run; see :class:`~agents.jobs.job.Job`.

    Args:
        part: ``"rules"``, ``"search"``, ``"references"``, ``"transfer"``, ``"rewards"`` or ``"screen"``.
        child: Of :data:`CHILDREN`.
        arm: A rule, or who searches.
        seed: Of the search, or the first of the children's.
        count: Children of a rule, proposals of a search, rules of a comparison.
        cifar10: Where the images are.
        device: Where.
    """

    part: str
    child: str
    arm: str
    seed: int
    count: int
    cifar10: str = "cifar10"
    device: str = "cpu"

    @property
    def steps(self) -> int:
        """One, or the episodes of a search."""
        return -(-self.count // ROWS) if self.part == "search" else 1

    @property
    def identity(self) -> Row:
        """The run, and a fingerprint of all that could change its result."""
        search = SEARCHES[self.arm] if self.part == "search" else None
        controller = str(CONTROLLERS[search.agent](**search.agent_options)) if search else ""
        constants = [list(FRESH), list(SEARCHED_ON), THRESHOLD, TRAINS[self.child], ROWS, EQUAL]
        own = [self.count, fingerprint_of_children(self.child, self.cifar10), str(search), controller, constants]
        return {
            "part": self.part,
            "child": self.child,
            "arm": self.arm,
            "seed": self.seed,
            "config": fingerprint(own),
        }

    def run(self, on_step: Callable[[], None]) -> Row:
        """Train what it is about."""
        start = time.process_time()
        found = {
            "rules": self._rules,
            "references": self._rules,
            "transfer": self._rules,
            "search": self._search,
            "rewards": self._rewards,
            "screen": self._screen,
        }[self.part](on_step)
        return {**found, "cpu_seconds": round(time.process_time() - start, 2), **provenance()}

    def _children(self) -> Children:
        return children_of(self.child, self.cifar10, self.device)

    def _rules(self, on_step: Callable[[], None]) -> Row:
        """A rule with seeds ``seed`` to ``seed + count - 1``, the step size chosen on all of them."""
        seeds = range(self.seed, self.seed + self.count)
        (one,) = self._children().train([build_optimizer_rule(self.arm)], seeds)
        on_step()
        return {"formula": str(build_optimizer_rule(self.arm)), **one._asdict(), "accuracies": list(one.accuracies)}

    def _search(self, on_step: Callable[[], None]) -> Row:
        search, children = SEARCHES[self.arm], self._children()
        options = {name: getattr(children.options, name) for name in children.options.__dataclass_fields__}
        env: Any = gymnasium.make_vec(
            "GAR/OptimizerSearch-v0",
            num_envs=ROWS,
            autoreset_mode="SameStep",
            encoding=search.encoding,
            screen=search.screen,
            child_seeds=len(SEARCHED_ON),
            device=self.device,
            **options,
        )
        controller: Any = CONTROLLERS[search.agent](**search.agent_options)
        session = start_session(env, controller.build, self.seed)
        curve, begun = Curve(env.unwrapped, on_step), time.process_time()
        session.run(self.steps * env.unwrapped.config.longest, curve)
        searched = time.process_time() - begun
        best = env.unwrapped.leaderboard(1)[0]
        early = curve.early or best.rule
        fresh, fresh_early = children.train([Rule(best.rule), Rule(early)], FRESH)
        env.close()
        return {
            "formula": best.rule,
            "search_accuracy": best.reward,
            "validation_accuracy": fresh.validation_accuracy,
            "test_accuracy": fresh.test_accuracy,
            "step_size": fresh.step_size,
            "accuracies": list(fresh.accuracies),
            "early_formula": early,
            "early_validation_accuracy": fresh_early.validation_accuracy,
            "early_test_accuracy": fresh_early.test_accuracy,
            "curve": curve.points,
            "search_cpu_seconds": round(searched, 2),
        }

    def _random(self, count: int) -> list[Rule]:
        """Distinct functions of two groups, at random."""
        generator, found = torch.Generator().manual_seed(self.seed), {}
        while len(found) < count:
            rule = Grammar(2).decode(Grammar(2).random(generator))
            found.setdefault(rule.key, rule)
        return list(found.values())

    def _screen(self, on_step: Callable[[], None]) -> Row:
        """What the screen keeps, on children of one seed that it was not chosen on."""
        children, rules = self._children(), self._random(self.count)
        scores = SharedTrajectory(children, self.seed).scores(rules)
        trained = children.train(rules, [self.seed])
        on_step()
        accuracy = torch.tensor([one.validation_accuracy for one in trained])
        trains = accuracy > TRAINS[self.child]
        kept = scores >= THRESHOLD
        top = accuracy >= accuracy[trains].quantile(0.9) if bool(trains.any()) else trains
        return {
            "rules": self.count,
            "kept": float(kept.float().mean()),
            "train": int(trains.sum()),
            "trains_kept": float(kept[trains].float().mean()) if bool(trains.any()) else None,
            "top": int(top.sum()),
            "top_kept": float(kept[top].float().mean()) if bool(top.any()) else None,
            "missed": [str(rules[i]) for i in (trains & ~kept).nonzero().flatten().tolist()][:10],
        }

    def _rewards(self, on_step: Callable[[], None]) -> Row:
        """Cheap rewards on one seed, against accuracies on others."""
        children, rules = self._children(), self._random(self.count)
        clock = time.process_time
        begun = clock()
        trajectory = SharedTrajectory(children, self.seed)
        alignment = trajectory.scores(rules).numpy()
        cost = {"alignment": clock() - begun}
        begun = clock()
        short = children.train(rules, [self.seed], whole=False)
        cost["one_epoch"] = clock() - begun
        begun = clock()
        whole = children.train(rules, [self.seed])
        cost["validation_accuracy"] = clock() - begun
        others = [self.seed + 1, self.seed + 2, self.seed + 3]
        target = np.array([one.validation_accuracy for one in children.train(rules, others)])
        on_step()
        trains = target > TRAINS[self.child]
        if trains.sum() < FEW or (~trains).sum() < FEW:
            return {"rules": self.count, "train": int(trains.sum()), "signals": {}}  # nothing to tell apart
        signals = {
            "validation_accuracy": [one.validation_accuracy for one in whole],
            "validation_loss": [-min(one.validation_loss, 1e9) for one in whole],
            "one_epoch": [one.one_epoch for one in short],
            "gar": [one.gar if math.isfinite(one.gar) else -1e9 for one in short],
            "nslr": [one.nslr if math.isfinite(one.nslr) else -1e9 for one in short],
            "alignment": alignment.tolist(),
        }
        costs = {"validation_loss": "validation_accuracy", "gar": "one_epoch", "nslr": "one_epoch"}
        found = {}
        for name, values in signals.items():
            spent = cost[costs.get(name, name)] / cost["validation_accuracy"]
            found[name] = {**compared(np.array(values), target, trains), "cost": spent}
        return {"rules": self.count, "train": int(trains.sum()), "signals": found}


def compared(signal: np.ndarray, target: np.ndarray, trains: np.ndarray) -> dict[str, Any]:
    """How well a signal tells rules that train from others, and ranks those; ``[value, low, high]``, 95 % bootstrap
    intervals over rules.

    Args:
        signal: ``[rules]``.
        target: Accuracies with other seeds, ``[rules]``.
        trains: bool ``[rules]``.
    """
    from scipy.stats import rankdata, spearmanr

    def area(values: np.ndarray, good: np.ndarray) -> float:
        count = int(good.sum())
        return (rankdata(values)[good].sum() - count * (count + 1) / 2) / (count * (len(good) - count))

    def correlation(values: np.ndarray, others: np.ndarray) -> float:
        return float(spearmanr(values, others).statistic)  # pyright: ignore[reportAttributeAccessIssue]

    generator, areas, correlations = np.random.default_rng(0), [], []
    inside = np.flatnonzero(trains)
    for _ in range(RESAMPLES):
        drawn = generator.integers(len(signal), size=len(signal))
        if 0 < trains[drawn].sum() < len(drawn):
            areas.append(area(signal[drawn], trains[drawn]))
        drawn = generator.choice(inside, len(inside))
        if len(set(signal[drawn])) > 1 and len(set(target[drawn])) > 1:
            correlations.append(correlation(signal[drawn], target[drawn]))
    top = target >= np.quantile(target[trains], 0.9)
    chosen = np.argsort(-signal, kind="stable")[: int(top.sum())]
    whole = area(signal, trains), correlation(signal[trains], target[trains])
    intervals = [
        np.quantile(values, (0.025, 0.975)).tolist() if values else [math.nan] * 2 for values in (areas, correlations)
    ]
    return {
        "auc": [whole[0], *intervals[0]],
        "rank_correlation": [whole[1], *intervals[1]],
        "top_found": float(top[chosen].mean()),
    }


class Curve:
    """What a search has come to after each episode: proposals, best reward, rules judged and trained, mean reward.

    ``early`` is the best rule when :data:`EQUAL` rules had been trained; None before.

    Args:
        env: The environment.
        on_episode: Called after each.
    """

    def __init__(self, env: Any, on_episode: Callable[[], None]) -> None:
        self.env, self.on_episode, self.steps = env, on_episode, 0
        self.points: list[list[float]] = []
        self.early: str | None = None

    def on_step(self) -> None:
        """Called by the session."""
        self.steps += 1
        if self.steps % self.env.config.longest:
            return
        known, paid = self.env.metrics(), [one.reward for one in self.env.verdicts]
        proposed = ROWS * (len(self.points) + 1)
        self.points.append([proposed, known["best_reward"], known["judged"], known["trained"], float(np.mean(paid))])
        if self.early is None and known["trained"] >= EQUAL:
            self.early = self.env.leaderboard(1)[0].rule
        self.on_episode()

    def at_rest(self) -> None:
        """Called by the session."""


def references(child: str, cifar10: str, device: str) -> list[OptimizerJob]:
    """Known rules on the seeds that nothing was chosen on."""
    return [OptimizerJob("references", child, rule, FRESH[0], len(FRESH), cifar10, device) for rule in REFERENCES]
