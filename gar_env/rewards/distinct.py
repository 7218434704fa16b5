"""GAR without the examples that agree with themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from gar_env.alignment import align, pair_products
from gar_env.data import Batch
from gar_env.errors import UnsupportedLayerError
from gar_env.rewards.signal import Evidence, Need, RewardSignal, register_reward


@register_reward("distinct_gar")
class DistinctGAR(RewardSignal):
    r"""``r_i = < grad l_i(theta_t), mean_j grad l_j(theta_{t+1}) >``, over the next batch's other examples ``j``.

    Other are those that are not identical to example ``i``, input and target; where nothing repeats itself it is GAR.
    What is drawn again and again agrees with itself, and GAR pays that: a few examples, repeated, take over a learned
    mixture. Near-duplicates are not seen.

    Exact: inner products of single examples' gradients (:func:`gar_env.alignment.pair_products`), of the identical
    pairs alone. 0 where all the next examples are identical.

    Raises:
        UnsupportedLayerError: Where per-example gradients are not known.

    Source:
        Ours; to pay for agreement with others alone is the idea of peer prediction (Shnayder et al. 2016).
    """

    needs = Need.TAPE | Need.NEXT_GRADIENT | Need.PASS | Need.NEXT_PASS

    def __init__(self) -> None:
        self.tried = False
        """Whether products have been read once: a network that has none is refused at its first step, not at the first
        identical pair."""

    def __call__(self, evidence: Evidence) -> Tensor:
        """One alignment per slot, ``[n]``."""
        paid, following = evidence.paid, evidence.following
        assert evidence.tape is not None
        assert evidence.next_gradient is not None
        assert paid is not None
        found = align(evidence.tape, evidence.next_gradient, retain_tape=True)
        if following is None or following.tape is None:  # too few examples for a pass: the gradient is zero
            return found
        rows, others = identical_pairs(paid.batch, following.batch)
        try:
            if not self.tried and not len(rows):
                first = rows.new_zeros(1)
                pair_products(evidence.tape, following.tape, first, first)
            self.tried = True
            products = pair_products(evidence.tape, following.tape, rows, others)
        except UnsupportedLayerError as error:
            raise UnsupportedLayerError(
                f"reward='distinct_gar', the default of GAR/DataSplit-v1, reads single examples' gradients. {error} "
                "reward='gar' does without."
            ) from error
        # The gradient is a sum over that many: over all slots, where some were left out of the pass.
        n = following.tape.n / following.loss_scale
        counted = torch.ones_like(products) if following.shares is None else following.shares[others]
        left = n - torch.zeros_like(found).index_add(0, rows, counted.to(found))
        own = torch.zeros_like(found).index_add(0, rows, products.to(found))
        return torch.where(left > 0.5, (n * found - own) / left.clamp_min(1), 0.0)


def identical_pairs(batch: Batch, other: Batch) -> tuple[Tensor, Tensor]:
    """Which examples of two batches are the same, input and target, bit for bit.

    Returns:
        int64 ``[p]``, of the first batch, and ``[p]``, of the second.

    Example:
        >>> one, two = torch.tensor([[1.0], [2.0]]), torch.tensor([[2.0], [2.0], [3.0]])
        >>> same = identical_pairs(Batch(one, torch.tensor([0, 1])), Batch(two, torch.tensor([1, 0, 1])))
        >>> [part.tolist() for part in same]
        [[1], [0]]
    """
    ours, theirs = (torch.cat([_numbers(one.inputs), _numbers(one.targets)], 1) for one in (batch, other))
    # One number for each example finds candidates; the examples themselves decide.
    weights = torch.rand(ours.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(ours.device)
    sums, their_sums = ours @ weights, theirs @ weights
    near = 1e-9 * (1 + sums.abs().max())
    rows, others = ((sums[:, None] - their_sums).abs() <= near).nonzero().unbind(1)
    same = (ours[rows] == theirs[others]).all(1)
    return rows[same], others[same]


def _numbers(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1).to(torch.float64)
