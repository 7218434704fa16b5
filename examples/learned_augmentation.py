"""An augmentation policy learned while the network trains: it drops the operations that lie, and is told nothing.

The images are arrows in four diagonal directions. A flip makes the label wrong; colours do not matter.
"""

import gymnasium

import gar_env  # noqa: F401 - registers the environments
from agents import OnlineAugmentation, Reinforce, train

env = gymnasium.make_vec(
    "GAR/Augment-v0",
    num_envs=128,
    num_steps=150,
    dataset="synthetic_invariances",
    network="fc_bn",
    space="wl[flip_lr,flip_ud,rotate,color,brightness,auto_contrast,posterize,blur]",
    crop_padding=0,  # nothing but the policy's own operations
    cutout=0,
)
policy = OnlineAugmentation(env.unwrapped.space)
final = train(env, Reinforce(policy), seed=0)

print(f"test accuracy {final['test_accuracy'][0]:.3f}; chance that an operation is kept when it is drawn:")
keep = policy.distribution().keep
for i in keep.argsort(descending=True).tolist():
    print(f"{env.unwrapped.space.names[i]:<14}{keep[i]:.2f}")
print("the last batch's first image:", env.unwrapped.plan.describe(0) or "as it is")
