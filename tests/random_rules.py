"""Random rules for tests."""

import torch

from gar_env.optimizers import Grammar, Rule


def random_rules(count: int, grammar: Grammar, seed: int = 0) -> list[Rule]:
    generator = torch.Generator().manual_seed(seed)
    return [grammar.decode(grammar.random(generator)) for _ in range(count)]


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Bit for bit, NaN where there is NaN."""
    return torch.equal(one.isnan(), other.isnan()) and torch.equal(one.nan_to_num(), other.nan_to_num())
