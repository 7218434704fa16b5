"""One key for all formulas that compute the same function: what they come to on fixed numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from gar_env.optimizers.functions import Moment
from gar_env.optimizers.interpreter import Semantics, remember, run
from gar_env.optimizers.rule import Rule

STEPS, COORDINATES, DIGITS = 4, 40, 6
SMALL, STILL = 12, 4
"""Coordinates with gradients from 1e-8 to 1e-3, where clipping, guards and small denominators tell; and those whose
gradient is exactly 0 in every other step: a dead unit's, which makes ``x / sign(g)`` another function than ``x *
sign(g)``."""


@lru_cache(maxsize=1)
def _probe() -> list[Moment]:
    """Fixed steps of gradients and parameters, with magnitudes from 1e-8 to 10 and some zeros, in float64."""
    generator = torch.Generator().manual_seed(20170)

    def numbers(kind: str = "randn") -> Tensor:
        return getattr(torch, kind)(1, COORDINATES, generator=generator, dtype=torch.float64)

    large = COORDINATES - SMALL - STILL
    parts = [(-3, 1, large), (-8, -3, SMALL), (-3, 0, STILL)]
    scale = torch.cat([torch.logspace(*part, dtype=torch.float64) for part in parts])[None]
    semantics = Semantics()
    memory = {name: torch.zeros(1, COORDINATES, dtype=torch.float64) for name in ("m", "v", "gamma")}
    found = []
    for step in range(STEPS):
        g, w = scale * numbers(), numbers()
        if step % 2 == 0:
            g[:, -STILL:] = 0
        memory = remember(g, memory, semantics)
        betas = dict(zip(memory, semantics.betas, strict=True))
        means = {name: value / (1 - betas[name] ** (step + 1)) for name, value in memory.items()}
        uniform, normal = (_draws([numbers(kind)[0] for _ in range(64)], kind, step) for kind in ("rand", "randn"))
        found.append(Moment(g, w, means, semantics.epsilon, step, 2 * STEPS, uniform, normal))
    return found


def _draws(first: list[Tensor], kind: str, step: int) -> Callable[[int], Tensor]:
    """The k-th draw of a step; long formulas have more than the first ones."""

    def draw(k: int) -> Tensor:
        if k < len(first):
            return first[k]
        generator = torch.Generator().manual_seed(1000 * k + step)
        return getattr(torch, kind)(COORDINATES, generator=generator, dtype=torch.float64)

    return draw


def values(rule: Rule) -> Tensor:
    """What a rule comes to on the probe, float64 ``[4, 40]``."""
    return torch.cat([run(rule.steps, at) for at in _probe()])


def functional_key(rule: Rule) -> str:
    """16 hexadecimal digits of a hash over the rule's updates on a fixed probe, to 6 significant digits.

    Rules that differ by an identity (``x + x`` and ``2 * x``) have one key; those that differ anywhere on the probe
    have two. Not that of a positive factor: the step size is part of training.

    Source:
        Real, Liang, So & Le (2020), "AutoML-Zero", functional equivalence checking; Gillard et al. (2023),
        arXiv 2302.05433.
    """
    found = values(rule).flatten()
    exact = torch.where(found == 0, 0.0, found)  # no -0
    text = ",".join(f"{x:.{DIGITS - 1}e}" for x in exact.tolist())
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
