import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

from agents.cli import main
from agents.experiments.checkpoints import load_checkpoint, previous, read_header, save_checkpoint
from agents.experiments.metrics_log import STEP, MetricsLog, read_metrics
from agents.experiments.train_arguments import parse
from agents.experiments.training import Training
from gar_env.errors import CheckpointError, ConfigurationError, MissingExtraError, UnknownNameError

SMALL = ["--num-envs", "16", "--no-tensorboard", "--log-every", "3", "--env-options.num-steps", "12"]


def arguments(out, *more, agent="reinforce", env="GAR/DataSplit-v0"):
    return ["--env", env, "--agent", agent, "--out", str(out), *SMALL, *more]


def run(out, *more, **chosen):
    config, resume = parse(arguments(out, *more, **chosen))
    return Training(config, Console(quiet=True), resume=resume).run()


def metrics(folder):
    """All but the times, as they stand in the file."""
    with (folder / "progress.csv").open(newline="") as file:
        return [
            {k: v for k, v in row.items() if k not in ("time/fps", "time/time_elapsed")} for row in csv.DictReader(file)
        ]


class Killed(BaseException):
    pass


COMBINATIONS = [
    ("GAR/DataSplit-v0", "reinforce", []),
    (
        "GAR/DataSplit-v0",
        "reinforce",
        ["--env-options.reward-timing", "next_step", "--env-options.network", "wrn-10-1"],
    ),
    ("GAR/DataSplit-v0", "sb3-a2c", []),
    ("GAR/DataSplit-v0", "sb3-dqn", ["--agent-options.learning-starts", "32"]),
    ("GAR/DataSplit-v0", "sb3-maskable-ppo", ["--agent-options.gamma", "0.5"]),
    ("GAR/DataSplit-v0", "sb3-ppo", ["--env-options.reward-timing", "next_step"]),
    ("GAR/DataWeight-v0", "sb3-ppo", ["--env-options.penultimate"]),
    ("GAR/DataWeight-v0", "small-loss", ["--env-options.reference", "heldout", "--env-options.reward", "nslr"]),
]


@pytest.mark.parametrize(("env", "agent", "more"), COMBINATIONS, ids=lambda value: str(value))
def test_a_killed_run_goes_on_to_the_same_metrics(tmp_path, monkeypatch, env, agent, more):
    more = [*more, "--episodes", "2", "--checkpoint-every", "5"]
    run(tmp_path / "whole", *more, agent=agent, env=env)
    kill_at(14, monkeypatch)
    with pytest.raises(Killed):
        run(tmp_path / "cut", *more, agent=agent, env=env)
    monkeypatch.undo()
    assert 0 < read_header(tmp_path / "cut" / "checkpoint.pkl")["steps"] < 14
    main(["train", "--resume", str(tmp_path / "cut")])
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    assert len(metrics(tmp_path / "whole")) == 8
    assert float(metrics(tmp_path / "whole")[-1]["env/test_accuracy"]) > 0


def started(out, steps, *more):
    """A run in a process of its own that has saved at least so many steps."""
    command = [sys.executable, "-m", "agents.cli", "train", *arguments(out, *more)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    limit = time.time() + 60
    while not (out / "checkpoint.pkl").exists() or read_header(out / "checkpoint.pkl")["steps"] < steps:
        assert time.time() < limit, "the run did not start"
        assert process.poll() is None, "the run is over already"
        time.sleep(0.01)
    return process


def test_kill_9_loses_nothing_and_ctrl_c_saves(tmp_path):
    long = ["--env-options.num-steps", "400", "--checkpoint-every", "50"]
    run(tmp_path / "whole", *long)
    process = started(tmp_path / "killed", 50, *long)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 50 <= read_header(tmp_path / "killed" / "checkpoint.pkl")["steps"] < 400
    main(["train", "--resume", str(tmp_path / "killed" / "checkpoint.pkl")])
    process = started(tmp_path / "stopped", 50, *long)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert f"Go on with: gar-env train --resume {tmp_path / 'stopped'}" in error
    main(["train", "--resume", str(tmp_path / "stopped")])
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")
    assert len(metrics(tmp_path / "whole")) == 134


def kill_at(step, monkeypatch):
    usual = Training.on_step

    def die(self):
        usual(self)
        if self.session.steps == step:
            raise Killed

    monkeypatch.setattr(Training, "on_step", die)


@pytest.mark.parametrize("every", [5, 100], ids=["from a checkpoint", "from the start"])
def test_tensorboard_has_each_step_once_after_a_kill(tmp_path, monkeypatch, every):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    kill_at(8, monkeypatch)
    with pytest.raises(Killed):
        run(tmp_path, "--tensorboard", "--log-every", "1", "--checkpoint-every", str(every))
    monkeypatch.undo()
    main(["train", "--resume", str(tmp_path)])
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("env/loss")] == [16 * step for step in range(1, 13)]


def test_a_kill_while_the_log_is_rewritten_costs_no_row(tmp_path, monkeypatch):
    log = MetricsLog(tmp_path, tensorboard=False)
    log.write(10, {"a": 1.0})

    def die(*_):
        raise Killed

    monkeypatch.setattr(csv.DictWriter, "writerows", die)
    with pytest.raises(Killed):
        log.write(20, {"b": 1.0})
    assert [row[STEP] for row in read_metrics(log.path)] == ["10"]


def test_what_is_printed_at_the_end_is_of_the_last_logged_episode(tmp_path, capsys):
    main(["train", *arguments(tmp_path, "--agent-options.n-steps", "32", "--log-every", "1", agent="sb3-ppo")])
    assert len(metrics(tmp_path)) == 12
    logged = float(metrics(tmp_path)[-1]["env/test_accuracy"])
    assert f"test_accuracy   {logged:.4f}" in capsys.readouterr().out
    main(["train", "--resume", str(tmp_path)])
    assert f"test_accuracy   {logged:.4f}" in capsys.readouterr().out


def test_two_processes_do_not_share_a_folder(tmp_path):
    from agents.experiments.results import lock

    held = lock(tmp_path / "run.lock", tmp_path)
    with pytest.raises(CheckpointError, match="Another process is writing to"):
        run(tmp_path)
    held.close()
    run(tmp_path)


def test_a_run_without_a_checkpoint_says_how_to_start_again(tmp_path, capsys):
    run(tmp_path)
    (tmp_path / "checkpoint.pkl").unlink()
    with pytest.raises(SystemExit):
        main(["train", "--resume", str(tmp_path)])
    assert "stopped before its first checkpoint. Start it again with the same command line" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_one_message(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit):
        main(["train", *arguments(tmp_path / "file")])
    assert "file: File exists. Check the path and its permissions." in capsys.readouterr().err


def test_the_resolved_configuration_is_kept_and_a_finished_run_stays(tmp_path, capsys):
    run(tmp_path, "--env-options.momentum", "0.5")
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["env_options"]["momentum"] == 0.5
    assert saved["env_options"]["step_size"] == 0.1, "defaults are resolved"
    assert saved["env_options"]["autoreset_mode"] == "SameStep", "what the run decides is in it"
    assert saved["agent_options"]["normalise"] == "step"
    assert saved["provenance"]["torch"]
    before = metrics(tmp_path)
    main(["train", "--resume", str(tmp_path)])
    assert metrics(tmp_path) == before
    with pytest.raises(ConfigurationError, match=r"holds a run already. Go on with it by gar-env train --resume"):
        run(tmp_path)


def test_logs_have_sb3s_names_in_csv_and_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    run(tmp_path, "--tensorboard", agent="sb3-ppo")
    names = metrics(tmp_path)[-1].keys()
    for name in (
        STEP,
        "rollout/ep_rew_mean",
        "rollout/ep_len_mean",
        "train/loss",
        "train/entropy_loss",
        "env/loss",
        "env/usage_0",
    ):
        assert name in names
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert "train/loss" in events.Tags()["scalars"]
    assert [event.step for event in events.Scalars("env/loss")] == [48, 96, 144, 192]


# Bad input


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        (["--agent", "sb3-pp"], UnknownNameError, "No controller is called 'sb3-pp'. Did you mean 'sb3-ppo'"),
        (["--env", "GAR/DataWeigth-v0"], UnknownNameError, "Did you mean 'GAR/DataWeight-v0'"),
        (["--env", "CartPole-v1"], ConfigurationError, "CartPole-v1 is no slot environment"),
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
        parse(["--episodes", "0"])
    assert "episodes=0 must be at least 1." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("chosen", "more", "message"),
    [
        ({"agent": "keep-all"}, [], "keep-all drops or keeps examples; DataSplitVectorEnv has other actions"),
        ({"agent": "small-loss"}, [], "Use it on GAR/DataWeight-v0"),
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
    assert not (tmp_path / "checkpoint.pkl").exists()


def test_a_policy_that_is_no_longer_finite_is_said_to_be(tmp_path):
    with pytest.raises(
        ConfigurationError, match=r"The policy of PPO has become NaN or infinite.*a lower learning_rate"
    ):
        run(tmp_path, "--agent-options.learning-rate", "1e30", agent="sb3-ppo")


def test_a_cut_checkpoint_is_refused_and_names_the_one_before(tmp_path):
    run(tmp_path, "--checkpoint-every", "4")
    path = tmp_path / "checkpoint.pkl"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"is cut short or altered.*checkpoint.previous.pkl: rename it"):
        read_header(path)
    os.replace(previous(path), path)
    main(["train", "--resume", str(tmp_path)])
    assert len(metrics(tmp_path)) == 4


def test_a_checkpoint_of_another_run_or_version_is_refused(tmp_path, monkeypatch, capsys):
    run(tmp_path / "a")
    run(tmp_path / "b", "--seed", "1")
    os.replace(tmp_path / "b" / "checkpoint.pkl", tmp_path / "a" / "checkpoint.pkl")
    with pytest.raises(SystemExit):
        main(["train", "--resume", str(tmp_path / "a")])
    assert "belongs to another run: seed was 1, config.json has 0" in capsys.readouterr().err
    monkeypatch.setattr("agents.experiments.checkpoints.__version__", "9.0")
    with pytest.raises(CheckpointError, match=r"was written by gar-env 0.1.0; this is 9.0"):
        read_header(tmp_path / "a" / "checkpoint.pkl")


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pkl"
    with pytest.raises(CheckpointError, match="No checkpoint at"):
        read_header(path)
    path.write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(CheckpointError, match="is no checkpoint of gar-env"):
        read_header(path)


def test_a_failed_write_keeps_the_checkpoint(tmp_path, monkeypatch):
    path, data = tmp_path / "checkpoint.pkl", object()
    save_checkpoint(path, {"steps": 1}, {"x": [1], "data": data}, {"data": data})
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, {"steps": 2}, {"x": [2], "data": data}, {"data": data})
    assert read_header(path)["steps"] == 1
    again = object()
    assert load_checkpoint(path, {"data": again}) == {"x": [1], "data": again}


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


# The log


def test_a_log_widens_and_drops_what_came_after_the_checkpoint(tmp_path):
    log = MetricsLog(tmp_path, tensorboard=False)
    log.write(10, {"a": 1.0})
    log.write(20, {"a": 2.0, "b": 0.1})
    with log.path.open("a") as file:
        file.write("30,")  # killed while writing
    assert [row[STEP] for row in read_metrics(log.path)] == ["10", "20"]
    log = MetricsLog(tmp_path, after=10, tensorboard=False)
    log.write(20, {"a": 3.0, "b": 0.2})
    assert read_metrics(log.path) == [{STEP: "10", "a": "1.0", "b": ""}, {STEP: "20", "a": "3.0", "b": "0.2"}]


# The other commands


def test_list_names_what_there_is(capsys):
    main(["list"])
    printed = capsys.readouterr().out
    for name in ("GAR/DataWeight-v0", "sb3-ppo", "small-loss", "gar", "fc_bn", "digits", "symmetric_noise"):
        assert name in printed


def test_check_prints_what_was_checked(capsys):
    main(["check", "GAR/DataWeight-v0"])
    assert "GAR/DataWeight-v0 keeps the contract." in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["check", "GAR/DataWeigt-v0"])
    assert "Did you mean 'GAR/DataWeight-v0'" in capsys.readouterr().err


@pytest.mark.parametrize("study", ["splits", "weights"])
def test_a_study_of_controllers_runs_through(study, tmp_path, capsys):
    size = ["--seeds", "1", "--batch-size", "16", "--steps", "12", "--workers", "1", "--out", str(tmp_path)]
    corrupt = {"splits": "3:easy", "weights": "asymmetric_noise(0.2)"}[study]
    main(["reproduce", "controllers", study, *size, "--corrupt", corrupt])
    printed = capsys.readouterr().out
    assert "| sb3-ppo |" in printed
    assert "| oracle |" in printed
    with pytest.raises(SystemExit):
        main(["reproduce", "controllers", study, *size, "--steps", "3"])
    assert "steps=3 at least 11" in capsys.readouterr().err
