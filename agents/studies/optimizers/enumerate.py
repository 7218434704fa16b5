"""Every function of one group: keyed, screened, trained with three seeds; what the package's table is made of."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agents.jobs.provenance import fingerprint, provenance
from agents.jobs.results import Row
from agents.measures.tables import Table
from agents.studies.optimizers.cases import SEARCHED_ON
from agents.studies.optimizers.jobs import children_of, fingerprint_of_children
from gar_env.optimizers import Grammar, Rule
from gar_env.optimizers.screen import THRESHOLD, SharedTrajectory
from gar_env.optimizers.table import RuleTable

PART = 512
"""Functions of a run."""


def functions() -> dict[str, str]:
    """One formula for each function that a string of one group says, by key."""
    grammar, trees, found = Grammar(1), {}, {}
    for tokens in itertools.product(*(grammar.choices(place) for place in range(grammar.length))):
        rule = grammar.decode(tokens).canonical
        trees.setdefault(rule.tree, rule)
    for rule in trees.values():
        found.setdefault(rule.key, str(rule))
    return found


@dataclass(frozen=True)
class EnumerateJob:
    """Some functions; see :class:`~agents.jobs.job.Job`.

    Args:
        start: The number of the first.
        formulas: By key.
    """

    start: int
    formulas: tuple[tuple[str, str], ...]

    @property
    def steps(self) -> int:
        """One."""
        return 1

    @property
    def identity(self) -> Row:
        """The part, and a fingerprint of all that could change its result."""
        own = [self.formulas, fingerprint_of_children("digits", ""), list(SEARCHED_ON), THRESHOLD]
        where = {"part": "enumerate", "child": "digits", "arm": f"from {self.start}", "seed": SEARCHED_ON[0]}
        return {**where, "config": fingerprint(own)}

    def run(self, on_step: Callable[[], None]) -> Row:
        """Screen them, and train what is kept."""
        begun = time.process_time()
        children, rules = children_of("digits", "", "cpu"), [Rule(formula) for _, formula in self.formulas]
        scores = SharedTrajectory(children, SEARCHED_ON[0]).scores(rules)
        kept = (scores >= THRESHOLD).nonzero().flatten().tolist()
        trained = children.train([rules[i] for i in kept], SEARCHED_ON)
        on_step()
        accuracies = {self.formulas[i][0]: list(one.accuracies) for i, one in zip(kept, trained, strict=True)}
        rejected = [key for key, _ in self.formulas if key not in accuracies]
        cost = round(time.process_time() - begun, 2)
        return {"accuracies": accuracies, "rejected": rejected, "cpu_seconds": cost, **provenance()}


def enumerate_jobs(folder: Path) -> list[EnumerateJob]:
    """All functions, in parts; the list of them is kept in the folder."""
    known = folder / "functions.json"
    if not known.exists():
        folder.mkdir(parents=True, exist_ok=True)
        half = known.with_suffix(".half")
        half.write_text(json.dumps(functions()))
        half.rename(known)
    rules = list(json.loads(known.read_text()).items())
    return [EnumerateJob(start, tuple(rules[start : start + PART])) for start in range(0, len(rules), PART)]


def table_of(rows: Sequence[Row]) -> RuleTable:
    """What all parts came to."""
    found = {key: own for row in rows for key, own in row["accuracies"].items()}
    rejected = [key for row in rows for key in row["rejected"]]
    keys = np.array([int(key, 16) for key in (*found, *rejected)], np.uint64)
    accuracies = np.concatenate([np.array(list(found.values())), np.zeros((len(rejected), len(SEARCHED_ON)))])
    order = np.argsort(keys)
    trained = np.arange(len(keys)) < len(found)
    return RuleTable(keys[order], accuracies[order].astype(np.float32), trained[order])


def described(table: RuleTable) -> Table:
    """How many functions there are, how many train, quantiles, and where known rules stand."""
    means = table.means[table.trained]
    found = Table("Every function of one group, digits, mean of three children", ["", "validation accuracy"])
    found.append(["functions", f"{len(table.keys):,}"])
    found.append(["kept by the screen", f"{len(means):,} ({len(means) / len(table.keys):.1%})"])
    found.append(["of these above 0.5 / above 0.9", f"{(means > 0.5).mean():.0%} / {(means > 0.9).mean():.0%}"])
    quantiles = np.quantile(means, (0.5, 0.9, 0.99, 0.999))
    found.append(["quantiles 50 / 90 / 99 / 99.9 % of these", " / ".join(f"{value:.4f}" for value in quantiles)])
    found.append(["best", f"{table.best:.4f}"])
    for name in ("SGD", "Momentum", "RMSProp", "Adam"):
        mean, _ = table.of(Rule(name))
        found.append([name, f"{mean:.4f}, place {int((table.means > mean).sum()) + 1:,}"])
    return found
