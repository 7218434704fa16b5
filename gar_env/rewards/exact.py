"""What other signals approximate, computed the long way."""

from __future__ import annotations

import torch
from torch import Tensor

from gar_env.rewards.signal import Evidence, Need, RewardSignal, register_reward


@register_reward("leave_one_out")
class LeaveOneOut(RewardSignal):
    r"""``r_i = L(theta_{t+1} without i) - L(theta_{t+1})``: what the next loss would have been higher without ``i``.

    By recomputation: the step is taken once without each example, optimizer and all, and the next batch's loss is
    measured after it. Two passes forward and one backward per example. The others keep their weight ``1 / n``; under
    batch normalisation the example is in no batch statistic. In float32 the difference is known to about 1e-7 nats.

    Source:
        The definition that GAR is a first-order approximation of: Mueller, Biedenkapp & Hutter (2021), section 4.
    """

    needs = Need.STEP
    for_small_batches = True

    def __call__(self, evidence: Evidence) -> Tensor:
        """One difference in nats per slot, ``[n]``."""
        repeat = evidence.repeat
        assert repeat is not None
        with torch.no_grad():
            whole = repeat.next_loss(repeat.after)
        entries = []
        for i in range(repeat.n):
            without = repeat.step_without(i)
            with torch.no_grad():
                entries.append(repeat.next_loss(without) - whole)
        return torch.stack(entries)


@register_reward("meta_gradient")
class MetaGradient(RewardSignal):
    r"""``r_i = -d L(theta_{t+1}(w)) / d w_i`` at ``w = 1``, with ``w_i / n`` the weight of example ``i`` in step ``t``.

    Exact, by differentiating through the step: gradient, clipping, momentum and all, of any optimizer of
    ``torch.optim`` that can be differentiated. For SGD it is GAR, in the derivative reading of batch normalisation,
    times ``step_size / n`` (and ``1 + momentum`` with Nesterov's): that GAR is the same thing for the price of an inner
    product is the point of GAR.

    Adam's update has no derivative where a parameter's gradient has been exactly 0 in every step so far, dead
    rectifiers for example: the environment then says that this signal is NaN.

    Raises:
        ConfigurationError: If the optimizer cannot be differentiated through.

    Source:
        Ren et al. (2018), "Learning to Reweight Examples for Robust Deep Learning", with the next batch in the place
        of clean validation data.
    """

    needs = Need.STEP

    def __call__(self, evidence: Evidence) -> Tensor:
        """One derivative in nats per slot, ``[n]``."""
        repeat = evidence.repeat
        assert repeat is not None
        with torch.enable_grad():
            weights = torch.ones(repeat.n, device=evidence.next_loss.device, requires_grad=True)
            loss = repeat.next_loss(repeat.step(weights))
            return -torch.autograd.grad(loss, weights)[0]
