"""The loop in full: a controller finds the split with random labels while the network trains."""

import gymnasium

import gar_env  # noqa: F401 - registers the environments
from agents import InvertedSoftmax, Reinforce

env = gymnasium.make_vec("GAR/DataSplit-v1", num_envs=128, num_steps=200)
agent = Reinforce(InvertedSoftmax(10))

observations, infos = env.reset(seed=0)
agent.begin(env)
ended = False
while not ended:
    actions = agent.act(observations)
    observations, rewards, terminations, truncations, infos = env.step(actions)
    agent.learn(rewards, terminations | truncations, infos)
    ended = terminations.all()

for name, probability in zip(env.unwrapped.split_names, agent.policy.probabilities().tolist(), strict=True):
    print(f"{name:<16} {probability:6.1%}")
print(f"test accuracy {infos['test_accuracy'][0]:.3f}")
