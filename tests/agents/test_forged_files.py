"""What others may have written into a run's files is never executed."""

import hashlib
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

from agents import container
from agents.cli import main
from agents.jobs.results import ResultsFile
from agents.sb3 import load_controller, save_controller
from gar_env.augment import SearchSpace, load_space
from gar_env.data import load_dataset
from gar_env.errors import CheckpointError, ConfigurationError, UntrustedNameError
from gar_env.state import as_data
from sb3_models import make, small
from trainings import Killed, arguments, kill_at, metrics, run


class Evil:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


@pytest.fixture
def mark(tmp_path, monkeypatch):
    """A file that appears when forged code runs; and a module on the path that makes it when it is imported."""
    mark = tmp_path / "executed"
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "forged_module.py").write_text(f"open({str(mark)!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path / "modules")
    yield mark
    sys.modules.pop("forged_module", None)


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    run(folder)
    return folder


@pytest.fixture
def finished(finished_once, tmp_path):
    shutil.copytree(finished_once, tmp_path / "run")
    return tmp_path / "run"


def said(folder, capsys, *more):
    with pytest.raises(SystemExit) as ended:
        main(["train", "--resume", str(folder), *more])
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("gar-env: ")
    assert "Traceback" not in printed
    return printed


def forged(kind, header, content):
    """A file whose hash is right: anybody can compute one."""
    line = json.dumps({**header, "bytes": len(content)}).encode()
    digest = hashlib.sha256(line + b"\n" + content).hexdigest().encode()
    return b"gar-env %s %d\n%s\n%s\n%s" % (kind.encode(), container.FORMATS[kind], digest, line, content)


def pickles(mark):
    """Ways to hide code where tensors are expected."""
    whole = io.BytesIO()
    torch.save({"run": Evil(mark)}, whole)
    legacy = io.BytesIO()
    torch.save({"run": Evil(mark)}, legacy, _use_new_zipfile_serialization=False)
    return {"plain pickle": pickle.dumps(Evil(mark)), "torch.save": whole.getvalue(), "legacy": legacy.getvalue()}


@pytest.mark.parametrize("way", ["plain pickle", "torch.save", "legacy"])
def test_a_checkpoint_that_holds_code_is_refused(finished, mark, way, capsys):
    path = finished / "checkpoint.gar"
    header = container.read_header(path, "checkpoint")
    path.write_bytes(forged("checkpoint", header, pickles(mark)[way]))
    assert "holds something else than numbers, text and tensors, and is not read" in said(finished, capsys)
    assert "is not read" in said(finished, capsys, "--trust")
    assert not mark.exists()


@pytest.mark.parametrize("way", ["plain pickle", "torch.save", "legacy"])
def test_a_controller_that_holds_code_is_refused(tmp_path, mark, way):
    path = save_controller(_ppo(), tmp_path / "c")
    path.write_bytes(forged("controller", container.read_header(path, "controller"), pickles(mark)[way]))
    with pytest.raises(CheckpointError, match="holds something else than numbers, text and tensors"):
        load_controller(path, make())
    assert not mark.exists()


def _ppo():
    return small(PPO, make())


@pytest.mark.parametrize(
    "change",
    [
        {"algorithm": "forged_module:PPO"},
        {"algorithm": "os.system"},
        {"algorithm": "BaseAlgorithm()"},
    ],
    ids=str,
)
def test_a_controller_s_algorithm_is_no_name_to_import(tmp_path, mark, change):
    path = save_controller(_ppo(), tmp_path / "c")
    state = container.read_state(path, "controller")
    header = {**container.read_header(path, "controller"), **change}
    path.write_bytes(container.packed("controller", header, state))
    with pytest.raises(CheckpointError, match="which is no algorithm of Stable-Baselines3"):
        load_controller(path, make())
    assert not mark.exists()


def test_a_controller_names_no_class_but_those_that_are_known(tmp_path, mark):
    path = save_controller(_ppo(), tmp_path / "c")
    state = container.read_state(path, "controller")
    state["arguments"]["classes"]["policy_kwargs.activation_fn"] = "forged_module.Act"
    path.write_bytes(container.packed("controller", container.read_header(path, "controller"), state))
    with pytest.raises(CheckpointError, match=re.escape("names a class 'forged_module.Act', which is none")):
        load_controller(path, make())
    assert not mark.exists()


@pytest.mark.parametrize(
    ("where", "name"),
    [
        (("env",), "forged_module:GAR/DataSplit-v0"),
        (("agent",), "forged_module:reinforce"),
        (("env_options", "reward"), "forged_module:gar"),
        (("env_options", "network"), "forged_module:fc"),
    ],
    ids=str,
)
def test_a_configuration_s_names_import_nothing(finished, mark, where, name, capsys):
    config = json.loads((finished / "config.json").read_text())
    inner = config
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = name
    (finished / "config.json").write_text(json.dumps(config))
    printed = said(finished, capsys)
    assert "stands in a file, and importing its module runs it" in printed
    assert "--trust" in printed
    assert not mark.exists()
    # Trusted, it is imported; the checkpoint is still another run's.
    said(finished, capsys, "--trust")
    assert mark.exists()


def test_a_space_names_no_module(tmp_path, mark):
    space = json.loads(load_space("wl[rotate,color]").to_json())
    space["choices"][0]["operation"] = "forged_module:rotate"
    (tmp_path / "space.json").write_text(json.dumps(space))
    for read in (lambda: SearchSpace.from_json(json.dumps(space)), lambda: load_space(str(tmp_path / "space.json"))):
        with pytest.raises(UntrustedNameError, match="Operation 'forged_module:rotate' stands in a file"):
            read()
    assert not mark.exists()


def test_a_learned_policy_s_file_holds_no_objects(finished, mark, capsys):
    np.savez(finished / "policy.npz", space=np.array([Evil(mark)], dtype=object))
    with pytest.raises(SystemExit):
        main(["plot", str(finished)])
    assert "is cut short, or no file of ola" in capsys.readouterr().err
    assert not mark.exists()


def test_tables_and_results_hold_no_code(tmp_path, mark, capsys):
    results = tmp_path / "rows.jsonl"
    row = {"recipe": "forged_module:paper", "network": "fc", "arm": "gar", "config": "", "keep": [], "losses": []}
    results.write_text(json.dumps({**row, "noisy_auc": 0.5}) + "\n")
    with pytest.raises(SystemExit):
        main(["plot", str(results)])
    assert "holds the recipe 'forged_module:paper': it is no file of reproduce table1" in capsys.readouterr().err
    results.write_bytes(pickle.dumps(Evil(mark)))
    with pytest.raises(CheckpointError, match="is no JSON object"):
        ResultsFile(results)
    np.savez(tmp_path / "data.npz", x_train=np.array([Evil(mark)], dtype=object))
    with pytest.raises(SystemExit):
        main(["train", *arguments(tmp_path / "out", "--env-options.dataset", str(tmp_path / "data.npz"))])
    assert not mark.exists()


OWN = '''
import numpy as np
from dataclasses import dataclass
from agents.controllers import register_controller

class Agent:
    def begin(self, env): self.n, self.k = env.num_envs, env.single_action_space.n
    def act(self, observations): return self.generator.integers(self.k, size=self.n)
    def learn(self, rewards, ended, infos): pass
    def __init__(self): self.generator = np.random.default_rng(0)

class Stateful(Agent):
    def state_dict(self): return {"generator": self.generator.bit_generator.state}
    def load_state_dict(self, state): self.generator.bit_generator.state = state["generator"]

@register_controller("pickled")
@dataclass(frozen=True)
class Pickled:
    """Without a state of its own."""
    def build(self, env, seed): return Agent()

@register_controller("stateful")
@dataclass(frozen=True)
class WithState:
    """With one."""
    def build(self, env, seed): return Stateful()
'''


@pytest.mark.parametrize("agent", ["pickled", "stateful"])
def test_a_controller_of_one_s_own_is_data_or_trusted(tmp_path, monkeypatch, agent, capsys):
    (tmp_path / "own_controllers.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    name = f"own_controllers:{agent}"
    trust = ["--trust"] if agent == "pickled" else []
    if trust:
        with pytest.raises(ConfigurationError, match=r"has no state_dict\(\) and load_state_dict\(\).*--trust"):
            run(tmp_path / "refused", agent=name)
    run(tmp_path / "whole", *trust, "--checkpoint-every", "5", agent=name)
    kill_at(8, monkeypatch)
    with pytest.raises(Killed):
        run(tmp_path / "cut", *trust, "--checkpoint-every", "5", agent=name)
    monkeypatch.undo()
    command = [sys.executable, "-m", "agents.cli", "train", "--resume", str(tmp_path / "cut")]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    refused = subprocess.run(command, capture_output=True, text=True, env=env)
    assert "stands in a file, and importing its module runs it" in refused.stderr, "in a new process"
    subprocess.run([*command, "--trust"], check=True, env=env, capture_output=True)
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")


def test_data_that_changed_since_are_named(tmp_path, capsys):
    digits = load_dataset("digits")
    arrays = {
        "x_train": digits.x_train.permute(0, 2, 3, 1).numpy(), "y_train": digits.y_train.numpy(),
        "x_test": digits.x_test.permute(0, 2, 3, 1).numpy(), "y_test": digits.y_test.numpy(),
    }  # fmt: skip
    np.savez(tmp_path / "data.npz", **arrays)
    run(tmp_path / "run", "--env-options.dataset", str(tmp_path / "data.npz"))
    arrays["y_test"] = np.roll(arrays["y_test"], 1)
    np.savez(tmp_path / "data.npz", **arrays)
    assert "The data are not those that the run in" in said(tmp_path / "run", capsys)


def repacked(folder, change):
    """The folder's checkpoint with another state, and a hash that is right."""
    path = folder / "checkpoint.gar"
    whole = container.read_state(path, "checkpoint")
    change(whole)
    path.write_bytes(container.packed("checkpoint", container.read_header(path, "checkpoint"), whole))


def test_a_state_cannot_put_options_in_place_and_names_stay_closed_all_the_run(tmp_path, mark, monkeypatch, capsys):
    """What a forged configuration could do when the next episode builds its network."""
    more = ("--episodes", "2", "--checkpoint-every", "5")
    kill_at(8, monkeypatch)
    with pytest.raises(Killed):
        run(tmp_path / "run", *more)
    monkeypatch.undo()
    fields = {"is": "dict", "items": [("network", "forged_module:fc"), ("num_steps", 12)]}
    forged_config = {"is": "object", "class": "Pass", "fields": fields}
    repacked(tmp_path / "run", lambda whole: whole["run"]["env"].update(config=forged_config))
    printed = said(tmp_path / "run", capsys)
    assert "is made by its options, and no part of a state" in printed
    assert not mark.exists()


def test_a_method_cannot_be_put_in_place_of(finished, capsys):
    repacked(finished, lambda whole: whole["run"]["env"].update(build="x"))
    assert "keeps no 'build': something else made the state" in said(finished, capsys)


WRONG = ["x", 3.5, None, [1], {"a": 1}, torch.zeros(3)]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
@pytest.mark.parametrize("key", ["steps", "finished", "seconds", "observations", "env", "agent"])
def test_a_run_with_a_damaged_part_is_one_sentence_or_goes_on(finished, key, wrong, capsys):
    repacked(finished, lambda whole: whole["run"].update({key: wrong}))
    try:
        main(["train", "--resume", str(finished)])
    except SystemExit as ended:
        code = ended.code
    else:
        code = 0
    assert code in (0, 2)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["x", 3.5, [1], torch.zeros(3)], ids=str)
@pytest.mark.parametrize("key", ["steps", "num_envs", "_started", "learner", "evaluator", "data_generator", "_counts"])
def test_an_environment_s_state_of_another_type_is_refused(finished, key, wrong, capsys):
    if key == "steps" and type(wrong) is float:
        pytest.skip("a number for a number")
    repacked(finished, lambda whole: whole["run"]["env"].update({key: as_data(wrong)}))
    assert said(finished, capsys)


@pytest.mark.parametrize("key", ["config", "data", "pickles", "log"])
def test_a_header_without_an_entry_is_one_sentence(finished, key, capsys):
    path = finished / "checkpoint.gar"
    header = {k: v for k, v in container.read_header(path, "checkpoint").items() if k != key}
    path.write_bytes(container.packed("checkpoint", header, container.read_state(path, "checkpoint")))
    assert "does not say of which run it is" in said(finished, capsys)


@pytest.mark.parametrize("change", [{"torch": 3}, {"numpy": []}, {"python": "x"}], ids=str)
def test_damaged_generators_are_one_sentence(finished, change, capsys):
    repacked(finished, lambda whole: whole["generators"].update(change))
    assert "does not fit this run" in said(finished, capsys)


def test_a_search_space_that_changed_since_is_named(tmp_path, monkeypatch, capsys):
    path = tmp_path / "space.json"
    path.write_text(load_space("wl[rotate,color]").to_json())
    more = ("--env-options.space", str(path), "--checkpoint-every", "5")
    kill_at(8, monkeypatch)
    with pytest.raises(Killed):
        run(tmp_path / "run", *more, agent="ola", env="GAR/Augment-v0")
    monkeypatch.undo()
    path.write_text(load_space("wl[invert,blur]").to_json())
    assert "The state belongs to another AugmentVectorEnv: space was" in said(tmp_path / "run", capsys)


def test_a_controller_takes_only_what_its_algorithm_is_built_with(tmp_path):
    path = save_controller(_ppo(), tmp_path / "c")
    state = container.read_state(path, "controller")
    state["arguments"]["values"]["tensorboard_log"] = str(tmp_path / "written")
    path.write_bytes(container.packed("controller", container.read_header(path, "controller"), state))
    with pytest.raises(CheckpointError, match="an argument that it does not take: 'tensorboard_log'"):
        load_controller(path, make())
    state["arguments"]["values"].pop("tensorboard_log")
    state["parameters"] = {}
    path.write_bytes(container.packed("controller", container.read_header(path, "controller"), state))
    with pytest.raises(CheckpointError, match="does not hold all that a PPO has learned"):
        load_controller(path, make())
