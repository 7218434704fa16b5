"""How much each example of a reference counts: by how the network answers to it, and in which half of a batch it is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from gar_env.registry import Registry

Weigh = Callable[[Tensor, Tensor], Tensor]
"""From outputs ``[n, classes]``, detached, and labels int64 ``[n]`` to weights ``[n]``. Of tokens they are ``[n, T,
vocabulary]`` and ``[n, T]``, and a sequence's weight is the mean over its tokens; -1 is none."""

REFERENCE_WEIGHTS: Registry[Weigh] = Registry("reference weight")
register_reference_weight = REFERENCE_WEIGHTS.register


@register_reference_weight("all")
def everything(outputs: Tensor, labels: Tensor) -> Tensor:
    """Every example alike."""
    return torch.ones(len(labels), dtype=outputs.dtype, device=outputs.device)


@register_reference_weight("agree")
def agree(outputs: Tensor, labels: Tensor) -> Tensor:
    """1 where the label is the network's own answer, else 0: wrong labels, which it does not yet believe, are out."""
    return _of_examples((outputs.argmax(-1) == labels).to(outputs.dtype), labels)


@register_reference_weight("mae")
def probability(outputs: Tensor, labels: Tensor) -> Tensor:
    """The label's probability: the gradient is that of ``-p(label)``, the mean absolute error.

    Source:
        Ghosh, Kumar & Sastry (2017), "Robust Loss Functions under Label Noise".
    """
    found = outputs.softmax(-1).gather(-1, labels.clamp_min(0)[..., None])[..., 0]
    return _of_examples(found, labels)


def _of_examples(weights: Tensor, labels: Tensor) -> Tensor:
    """Of labels as they are; of tokens, the mean of those that are there."""
    if labels.ndim == 1:
        return weights
    there = (labels >= 0).to(weights.dtype)
    return (weights * there).sum(1) / there.sum(1).clamp_min(1)


def halves(n: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Two random halves of ``n`` examples, bool ``[n]`` each, on the generator's device; the first is the smaller."""
    first = torch.zeros(n, dtype=torch.bool, device=generator.device)
    first[torch.randperm(n, generator=generator, device=generator.device)[: n // 2]] = True
    return first, ~first


def shares_of(half: Tensor) -> Tensor:
    """How often each example counts in the mean over ``half``, bool ``[n]``: float32 ``[n]``, with mean 1."""
    return half.to(torch.float32) * (len(half) / half.sum())
