"""Examples and code in the documentation run as they are printed."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_an_example_runs_and_is_short(path, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some leave files
    assert len(path.read_text().splitlines()) < 60
    if path.name.startswith("huggingface"):
        pytest.importorskip("transformers")
        pytest.importorskip("accelerate")
        monkeypatch.setenv("STEPS", "30")
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("path", sorted((ROOT / "examples" / "clients").glob("*.py")), ids=lambda path: path.name)
def test_a_client_is_short_too(path):
    assert len(path.read_text().splitlines()) < 80  # skrl's users write their models out


CLEANRL_SHAPED = """
import gymnasium as gym
import numpy as np
import tyro
from dataclasses import dataclass

from gar_env.optimizers.child_rewards import CHILD_REWARDS
from gar_env.optimizers.functions import OPERANDS, UNARY

@dataclass
class Args:
    env_id: str = "CartPole-v1"
    num_envs: int = 4
    num_steps: int = 128
    total_timesteps: int = 500000
    gamma: float = 0.99
    gae_lambda: float = 0.95
    learning_rate: float = 2.5e-4
    anneal_lr: bool = True
    cuda: bool = True

if __name__ == "__main__":
    args = tyro.cli(Args)
    envs = gym.vector.SyncVectorEnv([lambda: gym.make(args.env_id) for i in range(args.num_envs)])
    envs.reset(seed=1)
    for step in range(args.total_timesteps // args.num_envs):
        envs.step(np.zeros(args.num_envs, int))
"""


def run_client(name, *args, **environment):
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / "clients" / name), *args],
        env={**os.environ, "STEPS": "12", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


# RLlib pins another Gymnasium; it is here where somebody has installed it: make rllib.
CLIENTS = [("torchrl_ppo.py", "torchrl"), ("skrl_ppo.py", "skrl"), ("rllib_ppo.py", "ray.rllib")]


@pytest.mark.parametrize(("name", "package"), CLIENTS)
def test_a_client_trains_for_one_whole_episode(name, package):
    pytest.importorskip(package)
    done = run_client(name)
    assert "episode lengths [12]" in done.stdout, done.stderr


def test_cleanrls_environment_line_is_replaced_and_nothing_else(tmp_path):
    """CleanRL is not installable here; GAR_ENV_TEST_CLEANRL names its ppo.py where there is one."""
    source = Path(os.environ.get("GAR_ENV_TEST_CLEANRL", tmp_path / "ppo.py"))
    if not source.exists():
        source.write_text(CLEANRL_SHAPED)
    done = run_client("cleanrl_ppo.py", str(source))
    assert "episode lengths [12]" in done.stdout, done.stderr
    (tmp_path / "other.py").write_text("print(1)")
    assert "has 0 lines with SyncVectorEnv" in run_client("cleanrl_ppo.py", str(tmp_path / "other.py")).stderr
    assert "Pass the path of CleanRL's ppo.py" in run_client("cleanrl_ppo.py", str(tmp_path / "none.py")).stderr


def blocks(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/alignment.md",
        "docs/augmentation.md",
        "docs/clients.md",
        "docs/gradient_agreement.md",
        "docs/optimizer_search.md",
        "docs/own_data.md",
        "docs/rewards.md",
        "docs/step_size.md",
    ],
)
def test_the_code_on_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block in blocks(page):
        exec(compile(block, page, "exec"), {})


def test_the_page_on_extending_runs_from_top_to_bottom_in_short_examples(capsys):
    from gar_env.optimizers.child_rewards import CHILD_REWARDS
    from gar_env.optimizers.functions import OPERANDS, UNARY

    page = ROOT / "docs" / "extending.md"
    code = blocks(page)
    assert len(code) >= 9
    for number, block in enumerate(code):
        assert len(block.splitlines()) < 40, block
        module = ModuleType(f"extending_{number}")  # classes are looked up in their modules, when pickled for example
        sys.modules[module.__name__] = module
        exec(compile(block, f"{page}, example {number + 1}", "exec"), module.__dict__)
    assert "ok       autoreset NextStep" in capsys.readouterr().out
    for registry, name in ((UNARY, "tanh"), (OPERANDS, "signal_to_noise"), (CHILD_REWARDS, "thrifty")):
        registry._objects.pop(name)  # every grammar would offer them from now on


def test_a_package_of_ones_own_is_found_by_module_and_name(tmp_path):
    """As its author would use it: files on the path, names on the command line, nothing imported by hand."""
    examples = blocks("docs/extending.md")
    (tmp_path / "my_lab").mkdir()
    for name, mark in (("agents", "only-one-split"), ("rewards", "signed_alignment"), ("environments", "MyLab/Flip")):
        code = next(block for block in examples if mark in block)
        (tmp_path / "my_lab" / f"{name}.py").write_text(code)
    options = [
        "--env",
        "my_lab.environments:MyLab/Flip-v0",
        "--agent",
        "my_lab.agents:only-one-split",
        "--num-envs",
        "8",
    ]
    options += ["--env-options.reward", "my_lab.rewards:signed_alignment", "--env-options.num-steps", "4"]
    command = [sys.executable, "-m", "agents.cli", "train", *options, "--no-tensorboard"]
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert "test_accuracy" in done.stdout, done.stderr
    folder = tmp_path / "runs" / "train" / "Flip-v0-only-one-split-0"
    assert len((folder / "progress.csv").read_text().splitlines()) == 2
    command = [sys.executable, "-m", "agents.cli", "train", "--resume", str(folder), "--trust"]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("folder", "study"),
    [("digits", "splits"), ("digits", "weights"), ("asymmetric", "weights"), ("cifar10", "weights")],
)
def test_the_readmes_study_of_controllers_is_that_of_the_committed_results(folder, study):
    from agents.jobs.results import read_rows
    from agents.studies.controllers.jobs import controllers_table

    rows = read_rows(ROOT / "examples" / "results" / "controllers" / folder / f"{study}.jsonl")
    for line in controllers_table(rows, study).markdown().splitlines():
        assert line in (ROOT / "README.md").read_text()


def test_the_readmes_table_is_that_of_the_committed_results():
    """Every row that the README prints can be made again from examples/results."""
    from agents.jobs.results import read_rows
    from agents.studies.table1.jobs import accuracy_table, auc_table

    readme = (ROOT / "README.md").read_text()
    for recipe in ("paper", "best", "paper-derivative", "best-derivative"):
        rows = read_rows(ROOT / "examples" / "results" / "table1" / f"{recipe}.jsonl")
        for line in auc_table(rows, recipe).markdown().splitlines():
            assert line in readme
        assert accuracy_table(rows, recipe)


def test_the_costs_of_alignment_in_the_documentation_are_those_of_the_committed_results():
    results = (ROOT / "benchmarks" / "results" / "alignment.md").read_text().split("\n\n")[2]
    assert results.startswith("| network | n | hooks |")
    assert results in (ROOT / "docs" / "alignment.md").read_text()


def test_the_tables_on_augmentation_are_those_of_the_code_and_the_committed_results(capsys):
    from agents.cli import main
    from agents.jobs.results import read_rows
    from agents.studies.invariances.jobs import invariance_table
    from agents.studies.table2.jobs import table2_table

    folder = ROOT / "examples" / "results" / "augmentation"
    page, readme = (ROOT / "docs" / "augmentation.md").read_text(), (ROOT / "README.md").read_text()
    for table in (
        invariance_table(read_rows(folder / "invariances.jsonl")),
        table2_table(read_rows(folder / "cifar10.jsonl")),
    ):
        assert table.markdown() in page
        assert table.markdown() in readme
    assert table2_table(read_rows(folder / "cifar10_small.jsonl")).markdown() in page
    main(["augment", "--markdown"])
    assert capsys.readouterr().out.split("\n\n")[1].strip() in page
    speed = (ROOT / "benchmarks" / "results" / "augmentation.md").read_text()
    assert next(block for block in speed.split("\n\n") if block.startswith("| contender")) in page


def test_the_tables_on_step_sizes_are_those_of_the_committed_results():
    from agents.jobs.results import read_rows
    from agents.studies.step_size.tables import tables

    rows = read_rows(ROOT / "examples" / "results" / "step_size" / "stepsize.jsonl")
    sgd, rmsprop, *_ = (table.markdown() for table in tables(rows))
    documentation = (ROOT / "docs" / "step_size.md").read_text()
    for table in (sgd, rmsprop):  # rows of a results file stand in the order in which they were done
        assert set(table.splitlines()) <= set(documentation.splitlines())
    section = (ROOT / "README.md").read_text().split("## Learned step sizes")[1].split("\n## ")[0]
    quoted = [line for line in section.splitlines() if line.startswith("|")]
    assert len(quoted) == 10
    assert set(quoted) <= set(rmsprop.splitlines())


@pytest.mark.parametrize("name", ["sine", "omniglot"])
def test_the_tables_on_agreement_are_those_of_the_committed_results(name):
    from agents.jobs.results import read_rows
    from agents.studies.agreement.tables import tables

    rows = read_rows(ROOT / "examples" / "results" / "agreement" / f"{name}.jsonl")
    documentation = (ROOT / "docs" / "gradient_agreement.md").read_text().splitlines()
    made = {line for table in tables(rows) for line in table.markdown().splitlines() if "paper" not in table.title}
    assert made <= set(documentation)
    section = (ROOT / "README.md").read_text().split("## Which tasks agree?")[1].split("\n## ")[0]
    quoted = [line for line in section.splitlines() if line.startswith("| ") and name == "sine"]
    assert set(quoted) <= made


def test_the_tables_on_optimizers_are_those_of_the_committed_results():
    from agents.jobs.results import read_rows
    from agents.studies.optimizers.enumerate import described
    from agents.studies.optimizers.tables import tables
    from gar_env.optimizers.table import one_group

    rows = read_rows(ROOT / "examples" / "results" / "optimizers" / "optimizers.jsonl")
    documentation = (ROOT / "docs" / "optimizer_search.md").read_text().splitlines()
    made = [line for table in (*tables(rows), described(one_group())) for line in table.markdown().splitlines()]
    assert len(made) > 100
    assert set(made) <= set(documentation)
    section = (ROOT / "README.md").read_text().split("## An optimizer of your own")[1].split("\n## ")[0]
    quoted = [line for line in section.splitlines() if line.startswith("| ")]
    assert len(quoted) > 5
    assert set(quoted) <= set(made)


@pytest.mark.parametrize(("data", "losses"), [("digits", "0 of 8"), ("fashion_mnist", "0 of 7"), ("cifar10", "2 of 7")])
def test_the_defaults_for_own_data_are_those_of_the_committed_results(data, losses):
    """And on how many tasks they lose more than half a point is what the page says."""
    from agents.jobs.results import read_rows
    from agents.studies.rewards.tables import guard_table

    rows = read_rows(ROOT / "examples" / "results" / "rewards" / f"arms_{data}.jsonl")
    table = guard_table(rows).markdown()
    assert table in (ROOT / "docs" / "own_data.md").read_text()
    found = {line.split("|")[1].strip(): line.split("|")[-2].strip() for line in table.splitlines()[2:]}
    assert found["distinct_gar-uniform-keep"] == losses


def test_the_tables_on_own_data_are_those_of_the_committed_results():
    from agents.jobs.results import read_rows
    from agents.studies.mixture.tables import tables

    rows = read_rows(ROOT / "examples" / "results" / "mixture" / "mixture.jsonl")
    documentation = (ROOT / "docs" / "own_data.md").read_text().splitlines()
    made = [line for table in tables(rows) for line in table.markdown().splitlines()]
    assert len(made) > 10
    assert set(made) <= set(documentation)
