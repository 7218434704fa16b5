"""GAR, the gradient-alignment reward, and its relatives: other gradients, other lengths, fewer parameters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gar_env.alignment import align, example_lengths
from gar_env.errors import RewardError
from gar_env.learner import losses_of
from gar_env.rewards.signal import Evidence, Need, RewardSignal, register_reward


@register_reward("gar")
class GradientAlignmentReward(RewardSignal):
    r"""``r_i = < grad l_i(theta_t), grad L(theta_{t+1}) >``, ``L`` the mean loss of the next batch.

    To first order, what a little more weight on example ``i`` in step ``t`` would have taken off the next loss. ``l_i``
    is the example's own loss, not divided by the batch size.

    Source:
        Mueller, Biedenkapp & Hutter (2021), sections 4 and 5.
    """

    needs = Need.ALIGNMENT

    def __call__(self, evidence: Evidence) -> Tensor:
        """One alignment per slot, ``[n]``."""
        assert evidence.alignment is not None
        return evidence.alignment


@register_reward("validation_gar")
class ValidationGAR(RewardSignal):
    r"""``r_i = < grad l_i(theta_t), grad L_heldout(theta_{t+1}) >``: a clean held-out batch's gradient.

    An unbiased judge that GAR does without, at the price of data that are not trained on and a pass over them.

    Source:
        Wang, Pham, Michel, Anastasopoulos, Carbonell & Neubig (2020), "Optimizing Data Usage via Differentiable
        Rewards" (DDS): the reward of their scorer.
    """

    needs = Need.TAPE | Need.HELDOUT_GRADIENT

    def __call__(self, evidence: Evidence) -> Tensor:
        """One alignment per slot, ``[n]``."""
        assert evidence.tape is not None
        assert evidence.heldout_gradient is not None
        return align(evidence.tape, evidence.heldout_gradient)


@register_reward("cosine_gar")
class CosineGAR(RewardSignal):
    r"""``r_i = < g_i, g > / (|g_i| |g|)``: GAR of gradients scaled to length 1, ``g_i = grad l_i(theta_t)``.

    Examples with small gradients count as much as others. Where a gradient vanishes, 0.

    Raises:
        UnsupportedLayerError: Where lengths are not known: :func:`gar_env.alignment.example_lengths`.

    Source:
        The gradient similarity of Du et al. (2018), "Adapting Auxiliary Losses Using Gradient Similarity", per example.
    """

    needs = Need.ALIGNMENT | Need.TAPE | Need.NEXT_GRADIENT

    def __call__(self, evidence: Evidence) -> Tensor:
        """One cosine per slot, ``[n]``, in [-1, 1]."""
        assert evidence.tape is not None
        assert evidence.alignment is not None
        assert evidence.next_gradient is not None
        length = torch.stack([g.square().sum() for g in evidence.next_gradient.values()]).sum().sqrt()
        product = example_lengths(evidence.tape) * length
        return torch.where(product > 0, evidence.alignment / product, 0.0)


@register_reward("last_layer_gar")
class LastLayerGAR(RewardSignal):
    r"""GAR over the parameters of the network's last linear layer alone; no tape is recorded.

    With features ``x_i`` (its input), probabilities ``p_i`` and the layer's next gradient ``(G, g)``:
    ``r_i = (p_i - onehot(y_i)) . (G x_i + g)``, the layer's share of GAR exactly.

    Raises:
        RewardError: If the network's output is not that layer's, or the layer is frozen.

    Source:
        Last-layer gradients stand for whole ones in Katharopoulos & Fleuret (2018), "Not All Samples Are Created
        Equal"; the product with the next batch's is ours.
    """

    needs = Need.LAST_LAYER | Need.NEXT_GRADIENT

    def __call__(self, evidence: Evidence) -> Tensor:
        """One alignment per slot, ``[n]``."""
        paid, direction = evidence.paid, evidence.next_gradient
        assert paid is not None
        assert direction is not None
        last, targets = paid.last_layer, paid.batch.targets
        if last is None:
            raise RewardError("last_layer_gar found no call of a linear layer in the pass. Choose another reward.")
        logits = last.output.float()
        labels = targets.ndim == 1 and not targets.is_floating_point()
        fits = labels and logits.ndim == 2 and logits.shape[1] > int(targets.max())
        if not fits or not torch.allclose(losses_of(paid.batch, paid.weights)(logits), paid.losses, 1e-3, 1e-4):
            raise RewardError(
                f"last_layer_gar reads the last linear layer that was called, {last.name!r}, but the network's losses "
                "are not the cross entropy of its output. End the network with a linear layer, or choose another "
                "reward."
            )
        deltas = logits.softmax(1) - F.one_hot(targets, logits.shape[1])
        deltas = deltas if paid.weights is None else deltas * paid.weights[:, None]
        prefix = f"{last.name}." if last.name else ""
        if f"{prefix}weight" not in direction and f"{prefix}bias" not in direction:
            raise RewardError(f"last_layer_gar reads {last.name!r}, which is frozen. Choose another reward.")
        tangent = torch.zeros_like(logits)
        if f"{prefix}weight" in direction:
            tangent = tangent + last.inputs.float() @ direction[f"{prefix}weight"].T
        if f"{prefix}bias" in direction:
            tangent = tangent + direction[f"{prefix}bias"]
        return (deltas * tangent).sum(1)
