"""Training data to draw from: some of it corrupted, some of it put aside."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Generator, Tensor

from gar_env.data.corruptions import CORRUPTIONS, parse_shares
from gar_env.data.dataset import Dataset
from gar_env.data.inputs import Inputs
from gar_env.data.target import put_sources_aside
from gar_env.errors import ConfigurationError
from gar_env.registry import shown


@dataclass(frozen=True, eq=False, kw_only=True)
class Pool:
    """Examples to draw from.

    Args:
        inputs: ``[n, ...]``, corrupted where an example is; read as ``inputs[rows]``.
        targets: ``[n, ...]``, likewise.
        members: int64 ``[m]``, the examples that may be trained on (``m = n`` without held-out part).
        heldout: int64 ``[n - m]``, clean examples that are not.
        spoiled: bool ``[n]``, which examples were corrupted.
    """

    inputs: Inputs
    targets: Tensor
    members: Tensor
    heldout: Tensor
    spoiled: Tensor

    def to(self, device: torch.device | str) -> Self:
        """The same examples on ``device``."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor | Inputs)}
        return replace(self, **moved)

    def draw_uniformly(self, n: int, generator: Generator) -> Tensor:
        """``n`` of all training examples, as they are, with replacement. int64 ``[n]``, indices into ``inputs``."""
        return _draw(self.members, n, generator)

    def draw_heldout(self, n: int, generator: Generator) -> Tensor:
        """``n`` examples from the clean held-out part. int64 ``[n]``."""
        return _draw(self.heldout, n, generator)


def _draw(members: Tensor, n: int, generator: Generator) -> Tensor:
    return members[torch.randint(len(members), (n,), generator=generator, device=members.device)]


def put_aside(
    dataset: Dataset, heldout_share: float, target_shares: dict[str, float] | None, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Shuffle all training examples, and put a share of them, or of some sources, aside.

    Returns:
        ``(held out, the others)``, int64.

    Raises:
        ConfigurationError: If a share is out of range, or too small to hold an example.
    """
    if target_shares:
        return put_sources_aside(dataset, target_shares, generator)
    n = len(dataset.x_train)
    if not isinstance(heldout_share, int | float) or not 0 <= heldout_share < 1:
        raise ConfigurationError(f"heldout_share={shown(heldout_share)} must be at least 0 and below 1.")
    order = torch.randperm(n, generator=generator)
    num_heldout = int(heldout_share * n)
    if heldout_share and not num_heldout:
        raise ConfigurationError(f"heldout_share={heldout_share} of {n} examples is none. Raise it.")
    return order[:num_heldout], order[num_heldout:]


def make_pool(
    dataset: Dataset,
    generator: Generator,
    *,
    corrupt: str = "",
    heldout_share: float = 0.0,
    target_shares: dict[str, float] | None = None,
) -> Pool:
    """All training data in one pool, random shares of it corrupted.

    Args:
        dataset: On the CPU.
        generator: Named generator ``labels``, on the CPU.
        corrupt: For example ``"symmetric_noise(0.4)"``; several shares are disjoint.
        heldout_share: Share of the training data that is put aside, clean.
        target_shares: Instead, of sources by name: :func:`gar_env.data.read_target`.

    Raises:
        ConfigurationError: If ``corrupt`` cannot be read, or a share is out of range.
    """
    heldout, members = put_aside(dataset, heldout_share, target_shares, generator)
    wanted, start = [], 0
    for name, share in parse_shares(corrupt):
        rows = members[start : start + max(1, round(share * len(members)))]
        if len(rows) == 0:
            raise ConfigurationError(
                f"corrupt={corrupt!r} leaves no example for {name}: {dataset.name} has {len(members)} to share out."
            )
        wanted.append((name, rows))
        start += len(rows)
    inputs, targets, spoiled = corrupted(dataset, wanted, generator)
    return Pool(inputs=inputs, targets=targets, members=members, heldout=heldout, spoiled=spoiled)


def corrupted(
    dataset: Dataset, wanted: list[tuple[str, Tensor]], generator: Generator
) -> tuple[Inputs, Tensor, Tensor]:
    """Spoil some of the training data; what a corruption leaves alone is not copied.

    Args:
        dataset: On the CPU.
        wanted: Names of corruptions, each with the rows to spoil, int64.
        generator: For all of them, in order.

    Returns:
        ``(inputs, targets [n, ...], bool [n]: which were spoiled)``.

    Raises:
        ConfigurationError: If a corruption cannot spoil these data.
    """
    inputs, targets = Inputs(dataset.x_train), dataset.y_train.clone()
    spoiled = torch.zeros(len(inputs), dtype=torch.bool)
    for name, rows in wanted:
        some = dataset.x_train[rows]
        version = some._version
        try:
            changed, relabelled = CORRUPTIONS[name](some, targets[rows], len(dataset.classes), generator)
        except ConfigurationError as error:
            raise ConfigurationError(f"{dataset.name} cannot be spoiled by {name}: {error}") from error
        _check_corrupted(name, changed, relabelled, some, targets[rows], len(dataset.classes))
        targets[rows] = relabelled
        if changed is not some or some._version != version:
            inputs = inputs.replacing(rows, changed)
        spoiled[rows] = True
    return inputs, targets, spoiled


def _check_corrupted(
    name: str, inputs: Tensor, targets: Tensor, before: Tensor, targets_before: Tensor, classes: int
) -> None:
    """Refuse what a corruption may not return.

    Raises:
        ConfigurationError: With what it returned.
    """
    pairs = ((inputs, before), (targets, targets_before))
    fits = all(isinstance(new, Tensor) and new.dtype == old.dtype and new.shape == old.shape for new, old in pairs)
    labels = classes > 0 and fits and len(targets) and not targets.is_floating_point()
    lowest = -(targets.ndim - 1) if labels else 0  # of tokens -1 is none
    finite = not fits or all(bool(new.isfinite().all()) for new, _ in pairs if new.is_floating_point())
    if not fits or not finite or (labels and not lowest <= int(targets.min()) <= int(targets.max()) < classes):
        found = [f"{t.dtype} {list(t.shape)}" if isinstance(t, Tensor) else type(t).__name__ for t in (inputs, targets)]
        wanted = [f"{old.dtype} {list(old.shape)}" for _, old in pairs]
        raise ConfigurationError(
            f"The corruption {name!r} returned {' and '.join(found)}; expected inputs like those it was given, "
            f"{wanted[0]}, and targets, {wanted[1]}{f' from 0 to {classes - 1}' if classes else ''}, all finite."
        )
