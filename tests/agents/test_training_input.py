import os
import sys

import pytest

from agents.cli import main
from agents.training.arguments import parse
from agents.training.checkpoints import load_checkpoint, previous, read_header, save_checkpoint
from agents.training.metrics import MetricsLog
from gar_env.errors import CheckpointError, ConfigurationError, MissingExtraError, UnknownNameError
from trainings import metrics, run


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        (["--agent", "sb3-pp"], UnknownNameError, "No controller is called 'sb3-pp'. Did you mean 'sb3-ppo'"),
        (["--env", "GAR/DataWeigth-v0"], UnknownNameError, "Did you mean 'GAR/DataWeight-v0'"),
        (["--env", "CartPole-v1"], ConfigurationError, "CartPole-v1 is no environment of ours"),
        (["--env", "no_such_package:Mine-v0"], UnknownNameError, "names the module 'no_such_package'"),
        (["--resume", "somewhere", "--seed", "3"], ConfigurationError, "Leave the other options out"),
        (["--resume=somewhere", "--agent=sb3-ppo"], ConfigurationError, "Leave the other options out"),
        (["--resume=somewhere", "--resume=elsewhere"], ConfigurationError, "Leave the other options out"),
        (["--resume"], ConfigurationError, "expected one argument. See gar-env train --help"),
        (["--resume", "nowhere"], CheckpointError, "No run at nowhere: there is no nowhere/config.json"),
        (["--env-options.momentum", "3"], ConfigurationError, "momentum=3.0 must be at least 0 and below 1"),
    ],
)
def test_command_lines_that_do_not_fit(args, error, message):
    with pytest.raises(error, match=message):
        parse(args)


def test_an_option_out_of_range_is_refused_on_the_command_line(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--episodes", "0"])
    assert capsys.readouterr().err.startswith("gar-env: episodes=0 must be at least 1, and a whole number")


@pytest.mark.parametrize(
    ("chosen", "more", "message"),
    [
        ({"agent": "keep-all"}, [], "keep-all drops or keeps examples or tasks; DataSplitVectorEnv has other actions"),
        ({"agent": "small-loss"}, [], "Use it on GAR/DataWeight-v1"),
        ({"agent": "sb3-maskable-ppo"}, ["--env-options.reward-timing", "next_step"], "cannot credit late rewards"),
        ({"agent": "sb3-dqn"}, ["--env-options.reward-timing", "next_step"], "DQN learns from single transitions"),
        (
            {"agent": "sb3-a2c"},
            ["--env-options.reward-timing", "next_step"],
            "A rollout of 1 step holds no paid action",
        ),
        ({"agent": "random-drop", "env": "GAR/DataWeight-v0"}, ["--agent-options.drop-share", "2"], "must be in"),
        ({"agent": "sb3-ppo"}, ["--agent-options.minibatches", "0"], "minibatches=0 must be at least 1"),
        ({"agent": "sb3-ppo"}, ["--agent-options.n-steps", "0"], "n_steps=0 must be at least 1"),
        ({"agent": "sb3-ppo"}, ["--agent-options.n-epochs", "0"], "n_epochs=0 must be at least 1"),
        ({"agent": "sb3-ppo"}, ["--agent-options.hidden", "0"], r"hidden=\(0,\) must be widths"),
        ({"agent": "sb3-dqn"}, ["--agent-options.buffer-size", "0"], "buffer_size=0 must be at least 1"),
        ({"agent": "reinforce"}, ["--agent-options.step-size", "-1"], "step_size=-1.0 must be above 0"),
        ({"agent": "sb3-ppo"}, ["--agent-options.gamma", "7"], "gamma=7.0 must be in"),
        (
            {"agent": "sb3-a2c"},
            ["--num-envs", "1", "--env-options.network", "fc"],
            "needs at least 2 actions to compare",
        ),
    ],
)
def test_pairs_that_cannot_work_are_refused(tmp_path, chosen, more, message):
    with pytest.raises(ConfigurationError, match=message):
        run(tmp_path, *more, **chosen)
    assert not (tmp_path / "checkpoint.gar").exists()


def test_a_policy_that_is_no_longer_finite_is_said_to_be(tmp_path):
    with pytest.raises(
        ConfigurationError, match=r"The policy of PPO has become NaN or infinite.*a lower learning_rate"
    ):
        run(tmp_path, "--agent-options.learning-rate", "1e30", agent="sb3-ppo")


def test_a_cut_checkpoint_is_refused_and_names_the_one_before(tmp_path):
    run(tmp_path, "--checkpoint-every", "4")
    path = tmp_path / "checkpoint.gar"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"is cut short or altered.*checkpoint.previous.gar: rename it"):
        read_header(path)
    os.replace(previous(path), path)
    main(["train", "--resume", str(tmp_path)])
    assert len(metrics(tmp_path)) == 4


def test_a_checkpoint_of_another_run_is_refused(tmp_path, capsys):
    run(tmp_path / "a")
    run(tmp_path / "b", "--seed", "1")
    os.replace(tmp_path / "b" / "checkpoint.gar", tmp_path / "a" / "checkpoint.gar")
    with pytest.raises(SystemExit):
        main(["train", "--resume", str(tmp_path / "a")])
    assert "belongs to another run: seed was 1, config.json has 0" in capsys.readouterr().err


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "checkpoint.gar"
    with pytest.raises(CheckpointError, match="No checkpoint at"):
        read_header(path)
    path.write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(CheckpointError, match="is no checkpoint of gar-env"):
        read_header(path)


def test_a_failed_write_keeps_the_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.gar"
    save_checkpoint(path, {"steps": 1}, {"x": [1]})
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, {"steps": 2}, {"x": [2]})
    assert read_header(path)["steps"] == 1
    assert load_checkpoint(path)[0] == {"x": [1]}


def test_missing_packages_name_the_extra_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(
        MissingExtraError, match=r"pip install 'gar-env\[cli\]', or leave them out with --no-tensorboard"
    ):
        MetricsLog(tmp_path)
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'gar-env\[sb3\]'"):
        run(tmp_path, agent="sb3-maskable-ppo")
    for name in [name for name in sys.modules if name.startswith("agents.sb3")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'gar-env\[sb3\]'"):
        run(tmp_path, agent="sb3-ppo")


@pytest.mark.parametrize("env", ["GAR/DataSplit-v0", "GAR/DataWeight-v0", "GAR/Augment-v0"])
def test_help_names_every_option(env, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(["--env", env, "--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    for option in ("--env-options.dataset", "--env-options.reward", "--env-options.network"):
        assert option in printed
