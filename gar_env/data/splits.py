"""Training data cut into splits that a controller chooses between."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from gar_env.data.corruptions import parse_corruptions
from gar_env.data.dataset import Dataset
from gar_env.data.pool import Pool, corrupted, put_aside
from gar_env.errors import ConfigurationError
from gar_env.registry import check_choice, shown

KINDS = ("equal", "class", "group")


@dataclass(frozen=True, eq=False, kw_only=True)
class Splits(Pool):
    """A partition of the training data, some parts of it corrupted; ``members`` are those of split 0, then of 1, ...

    Args:
        starts: int64 ``[k]``, where each split begins in ``members``.
        sizes: int64 ``[k]``.
        names: One name per split, for people.
        corrupted: The indices of the corrupted splits.
    """

    starts: Tensor
    sizes: Tensor
    names: tuple[str, ...]
    corrupted: tuple[int, ...]

    @property
    def num_splits(self) -> int:
        """How many splits there are."""
        return len(self.names)

    def draw(self, splits: Tensor, generator: Generator) -> Tensor:
        """One example for each entry of ``splits``, uniformly from that split, with replacement.

        Independent draws are what the policy gradient's estimate assumes (the paper, equation 1).

        Args:
            splits: int64 ``[n]``, each in ``0..num_splits-1``.
            generator: On the device of ``splits``.

        Returns:
            int64 ``[n]``, indices into ``inputs`` and ``targets``.
        """
        return self.members[draw_places(splits, self.starts, self.sizes, generator)]


def draw_places(splits: Tensor, starts: Tensor, sizes: Tensor, generator: Generator) -> Tensor:
    """One place for each entry of ``splits``, uniformly from that split, int64 ``[n]``: from ``starts[split]`` on."""
    # float64: a float32 uniform times a size above 2**24 could round up to the size itself.
    share = torch.rand(len(splits), generator=generator, device=splits.device, dtype=torch.float64)
    return starts[splits] + (share * sizes[splits]).long()


def make_splits(
    dataset: Dataset,
    generator: Generator,
    *,
    kind: str = "equal",
    num_splits: int = 10,
    corrupt: str | None = None,
    heldout_share: float = 0.0,
    target_shares: dict[str, float] | None = None,
) -> Splits:
    """Cut the training data into splits and corrupt some of them.

    Args:
        dataset: On the CPU.
        generator: Named generator ``labels``, on the CPU.
        kind: ``"equal"``: ``num_splits`` random parts of equal size (the paper). ``"class"``: one split per
            class. ``"group"``: one per source, from the data set's ``group_train``.
        num_splits: For ``"equal"`` only; the others have as many as the data say.
        corrupt: For example ``"0:label_noise, 3:easy(0.5)"``, see :data:`~gar_env.data.CORRUPTIONS`. Default:
            ``"0:label_noise"``, and for ``"group"`` nothing: your own sources are left as they are.
        heldout_share: Share of the training data that is put aside, clean, in no split.
        target_shares: Instead, of sources by name: :func:`gar_env.data.read_target`.

    Raises:
        ConfigurationError: If the kind is unknown, a split would be empty, or a corrupted split is not there.

    Source:
        Mueller, Biedenkapp & Hutter (2021), section 6: ten equal parts of CIFAR-10, one with random labels.
    """
    check_choice("splits", kind, KINDS)
    heldout, order = put_aside(dataset, heldout_share, target_shares, generator)
    owner, names = _owners(dataset, order, kind, num_splits)
    if len(names) < 2:
        raise ConfigurationError(f"splits={kind!r} gives {len(names)} split; a controller needs at least 2.")
    sizes = torch.bincount(owner, minlength=len(names))
    empty = [names[i] for i in range(len(names)) if sizes[i] == 0]
    if empty:
        raise ConfigurationError(
            f"{len(empty)} of {len(names)} splits would be empty: {', '.join(empty[:5])}. "
            f"{dataset.name} has {len(order)} training examples to share out; make fewer splits."
        )
    members = order[torch.argsort(owner, stable=True)]
    starts = sizes.cumsum(0) - sizes

    if corrupt is None:
        corrupt = "" if kind == "group" else "0:label_noise"
    wanted = parse_corruptions(corrupt)
    rows_of_corruptions = []
    for split, (name, share) in sorted(wanted.items()):
        if split >= len(names):
            raise ConfigurationError(
                f"corrupt names split {split}, but there are {len(names)} splits: 0..{len(names) - 1}."
            )
        count = max(1, round(share * int(sizes[split])))
        rows_of_corruptions.append((name, members[starts[split] : starts[split] + count]))
        names[split] = f"{names[split]} ({name})" if share == 1 else f"{names[split]} ({name} {share:g})"
    inputs, targets, spoiled = corrupted(dataset, rows_of_corruptions, generator)
    return Splits(
        inputs=inputs,
        targets=targets,
        members=members,
        heldout=heldout,
        spoiled=spoiled,
        starts=starts,
        sizes=sizes,
        names=tuple(names),
        corrupted=tuple(sorted(wanted)),
    )


def _owners(dataset: Dataset, order: Tensor, kind: str, num_splits: int) -> tuple[Tensor, list[str]]:
    """The split of each example in ``order``, and the splits' names."""
    if kind == "class":
        if not dataset.has_labels:
            raise ConfigurationError(f"splits='class' needs a label for each example, and {dataset.name} has none.")
        return dataset.y_train[order], list(dataset.classes)
    if kind == "group":
        if dataset.group_train is None:
            raise ConfigurationError(
                f"splits='group' needs sources, and {dataset.name} has none. Add a group_train array to the .npz, "
                "or one sub-folder per source to the image folder's train folder."
            )
        return dataset.group_train[order], list(dataset.groups)
    if type(num_splits) is not int or num_splits < 2:
        raise ConfigurationError(f"num_splits={shown(num_splits)}: a controller needs at least 2 to choose from.")
    if num_splits > len(order):
        raise ConfigurationError(
            f"{num_splits - len(order)} of {num_splits} splits would be empty: {dataset.name} has {len(order)} "
            "training examples to share out; make fewer splits."
        )
    return torch.arange(len(order)) * num_splits // max(len(order), 1), [str(i) for i in range(num_splits)]
