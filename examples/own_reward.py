"""A reward signal of one's own, registered by name."""

import gymnasium
import torch

from agents import InvertedSoftmax, Reinforce, train
from gar_env.rewards import Evidence, Need, RewardSignal, register_reward


@register_reward("ranked_gar")
class RankedGAR(RewardSignal):
    """The rank of each example's alignment in its batch: no example counts for more than its place."""

    needs = Need.ALIGNMENT

    def __call__(self, evidence: Evidence) -> torch.Tensor:
        """One rank per slot, in [0, 1]."""
        assert evidence.alignment is not None
        return evidence.alignment.argsort().argsort() / (evidence.n - 1)


env = gymnasium.make_vec("GAR/DataSplit-v1", num_envs=128, num_steps=100, reward="ranked_gar")
agent = Reinforce(InvertedSoftmax(10))
infos = train(env, agent, seed=0)
print(f"chance of the noisy split {agent.policy.probabilities()[0]:.1%}, accuracy {infos['test_accuracy'][0]:.3f}")
