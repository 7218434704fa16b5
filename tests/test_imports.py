"""What importing loads: nothing heavy before it is needed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import agents
import gar_env
from agents.cli.names import NAMES

HEAVY = ("torch", "torchvision", "sklearn", "scipy", "matplotlib", "stable_baselines3")


def loaded(code: str) -> list[str]:
    """Of the heavy packages, in a fresh interpreter."""
    code += f"; import sys; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()


def test_importing_the_package_or_its_command_loads_nothing_heavy():
    assert loaded("import gar_env, gymnasium; gymnasium.spec('GAR/DataSplit-v0')") == []
    assert loaded("from agents.cli.main import main; main(['list'])") == []


def test_training_loads_torch_alone():
    make = "gymnasium.make_vec('GAR/DataSplit-v0', num_envs=4, dataset='synthetic_invariances')"
    assert loaded(f"import gymnasium, gar_env; {make}") == ["torch"]


@pytest.mark.parametrize("package", [gar_env, agents])
def test_every_public_name_is_there(package):
    assert len(package.__all__) > 5
    for name in package.__all__:
        assert name in dir(package)
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = package.nothing


REGISTERED = """
import json
from agents.controllers import CONTROLLERS
from agents.training.config import row_environments
from gar_env.augment import OPERATIONS, SPACES
from gar_env.envs import INSTANCES
from gar_env.agreement import AGREEMENT_RULES
from gar_env.data import CORRUPTIONS, DATASETS
from gar_env.data.tasks import TASK_CORRUPTIONS, TASKS
from gar_env.networks import NETWORKS
from gar_env.optimizers.functions import BINARY, OPERANDS, UNARY
from gar_env.optimizers.child_rewards import CHILD_REWARDS
from gar_env.rewards import REWARDS

found = [row_environments(), CONTROLLERS, REWARDS, NETWORKS, DATASETS, CORRUPTIONS, INSTANCES, TASKS,
         TASK_CORRUPTIONS, AGREEMENT_RULES, CHILD_REWARDS, OPERANDS, UNARY, BINARY, SPACES, OPERATIONS]
print(json.dumps([sorted(names) for names in found]))
"""


def test_the_command_lists_what_is_registered():
    done = subprocess.run([sys.executable, "-c", REGISTERED], capture_output=True, text=True, check=True)
    assert [list(names) for names in NAMES.values()] == json.loads(done.stdout)
