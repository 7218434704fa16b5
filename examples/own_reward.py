"""A reward signal of one's own, registered by name."""

import gymnasium

from agents import InvertedSoftmax, Reinforce, train
from gar_env.alignment import align
from gar_env.rewards import Evidence, Need, RewardSignal, register_reward


@register_reward("heldout_alignment")
class HeldoutAlignment(RewardSignal):
    """Alignment with the gradient of clean held-out data."""

    needs = Need.TAPE | Need.HELDOUT_GRADIENT

    def __call__(self, evidence: Evidence):
        """One alignment per slot."""
        assert evidence.tape is not None
        assert evidence.heldout_gradient is not None
        return align(evidence.tape, evidence.heldout_gradient)


env = gymnasium.make_vec("GAR/DataSplit-v0", num_envs=128, num_steps=100, reward="heldout_alignment")
agent = Reinforce(InvertedSoftmax(10))
infos = train(env, agent, seed=0)
print(f"chance of the noisy split {agent.policy.probabilities()[0]:.1%}, accuracy {infos['test_accuracy'][0]:.3f}")
