"""CleanRL: its ppo.py as it is, apart from the line that makes the environments.

    python examples/clients/cleanrl_ppo.py path/to/cleanrl/ppo.py

Further options are ppo.py's own. Needs what it needs (tyro, tensorboard), not the cleanrl package.
"""

import ast
import os
import sys
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium.vector import VectorWrapper

import gar_env  # noqa: F401 - registers the environments

STEPS = int(os.environ.get("STEPS", 300))
# A reward belongs to one action, so gamma is 0; a run is short, so rollouts are, and the step size is not annealed.
OPTIONS = (
    f"--env-id GAR/DataSplit-v1 --num-envs 128 --num-steps 4 --total-timesteps {128 * STEPS} --gamma 0 --gae-lambda 0 "
    "--learning-rate 1e-3 --no-anneal-lr --no-cuda"
).split()


class TellEpisodes(VectorWrapper):
    """Prints how long each episode was, and how often it drew from the noisy split."""

    drawn = ()

    def step(self, actions):
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        self.drawn = [*self.drawn, np.mean(actions == 0)]
        if terminations.all():
            first, last = np.mean(self.drawn[:30]), np.mean(self.drawn[-30:])
            print(f"episode lengths [{len(self.drawn)}], noisy split: {first:.3f} at first, {last:.3f} at last")
            self.drawn = ()
        # Gradients shrink in training, and rewards with them; ppo.py does not scale rewards itself.
        return observations, rewards / (rewards.std() + 1e-8), terminations, truncations, infos


def slots(num_envs):
    """What takes the place of ppo.py's SyncVectorEnv; it expects an environment that resets in the same step."""
    options = {"num_steps": STEPS, "autoreset_mode": "SameStep", "reward": "gar", "reference": "heldout"}
    return TellEpisodes(gymnasium.make_vec("GAR/DataSplit-v1", num_envs=num_envs, **options))


source = Path(sys.argv[1] if len(sys.argv) > 1 else "ppo.py")
if not source.is_file():
    sys.exit(f"No file {source}. Pass the path of CleanRL's ppo.py: python {sys.argv[0]} path/to/cleanrl/ppo.py")
tree = ast.parse(source.read_text())
replaced = 0
for node in ast.walk(tree):
    if isinstance(node, ast.Assign) and "SyncVectorEnv" in ast.dump(node.value):
        node.value, replaced = ast.parse("slots(args.num_envs)", mode="eval").body, replaced + 1
if replaced != 1:
    sys.exit(f"{source} has {replaced} lines with SyncVectorEnv; expected 'envs = gym.vector.SyncVectorEnv(...)' once.")
sys.argv = [str(source), *OPTIONS, *sys.argv[2:]]
__file__ = str(source)  # ppo.py names its run after its file
exec(compile(ast.fix_missing_locations(tree), source, "exec"))
