import csv
import json
import re
import signal
import subprocess
import sys
import time

import pytest

from agents.cli import main
from agents.training.checkpoints import read_header
from agents.training.metrics import STEP, MetricsLog, read_metrics
from gar_env.errors import CheckpointError, ConfigurationError
from trainings import Killed, arguments, kill_at, metrics, run

LATE = ["--env-options.reward-timing", "next_step"]
ABSOLUTE = ["--env-options.action", "absolute", "--env-options.observed", "all"]
COMBINATIONS = [
    ("GAR/DataSplit-v0", "reinforce", []),
    ("GAR/DataSplit-v0", "reinforce", [*LATE, "--env-options.network", "wrn-10-1"]),
    ("GAR/DataSplit-v0", "reinforce", ["--env-options.reward", "random", "--env-options.optimizer", "adam"]),
    ("GAR/DataSplit-v0", "uniform", [*LATE, "--env-options.network", "fc", "--env-options.way", "forward"]),
    ("GAR/DataSplit-v0", "oracle", [*LATE, "--env-options.reward", "meta_gradient"]),
    ("GAR/DataSplit-v0", "sb3-a2c", []),
    ("GAR/DataSplit-v0", "sb3-dqn", ["--agent-options.learning-starts", "32"]),
    ("GAR/DataSplit-v0", "sb3-maskable-ppo", ["--agent-options.gamma", "0.5"]),
    ("GAR/DataSplit-v0", "sb3-ppo", LATE),
    ("GAR/DataWeight-v0", "sb3-ppo", ["--env-options.penultimate"]),
    ("GAR/DataWeight-v0", "small-loss", ["--env-options.reference", "heldout", "--env-options.reward", "nslr"]),
    ("GAR/DataWeight-v0", "random-drop", [*LATE, "--env-options.reward", "last_layer_gar"]),
    ("GAR/Augment-v0", "ola", [*LATE, "--env-options.cutout", "4"]),
    ("GAR/Augment-v0", "sb3-ppo", ["--env-options.dataset", "synthetic_invariances"]),
    ("GAR/Augment-v0", "uniform-augment", ["--env-options.reference", "policy"]),
    (
        "GAR/StepSize-v0",
        "reps",
        [*ABSOLUTE, "--env-options.rule", "rmsprop", "--env-options.corrupt", "label_noise(0.1)"],
    ),
    ("GAR/StepSize-v0", "schedule", [*ABSOLUTE, "--agent-options.schedule", "cosine"]),
    ("GAR/StepSize-v0", "reinforce-linear", ["--env-options.action", "discrete", "--env-options.reward", "gar"]),
    ("GAR/StepSize-v0", "sb3-ppo", ["--agent-options.gamma", "0.9", "--agent-options.normalize-observation"]),
    ("toys:Test/Steps-v0", "reinforce", ["--agent-options.normalise", "running"]),
    ("toys:Test/Steps-v0", "sb3-ppo", ["--env-options.network", "fc_bn", "--env-options.rule", "adam"]),
    ("toys:Test/Lines-v0", "reinforce", LATE),
    ("toys:Test/Lines-v0", "sb3-dqn", ["--agent-options.learning-starts", "32"]),
]


@pytest.mark.parametrize(("env", "agent", "more"), COMBINATIONS, ids=lambda value: str(value))
def test_a_killed_run_goes_on_to_the_same_metrics(tmp_path, monkeypatch, env, agent, more):
    more = [*more, "--episodes", "2", "--checkpoint-every", "5"]
    run(tmp_path / "whole", *more, agent=agent, env=env)
    kill_at(14, monkeypatch)
    with pytest.raises(Killed):
        run(tmp_path / "cut", *more, agent=agent, env=env)
    monkeypatch.undo()
    assert 0 < read_header(tmp_path / "cut" / "checkpoint.gar")["steps"] < 14
    main(["train", "--resume", str(tmp_path / "cut")])
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    if env.startswith("GAR/"):
        assert len(metrics(tmp_path / "whole")) == 8
        assert float(metrics(tmp_path / "whole")[-1]["env/test_accuracy"]) > 0


def started(out, steps, *more):
    """A run in a process of its own that has saved at least so many steps."""
    command = [sys.executable, "-m", "agents.cli", "train", *arguments(out, *more)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    limit = time.time() + 60
    while not (out / "checkpoint.gar").exists() or read_header(out / "checkpoint.gar")["steps"] < steps:
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
    assert 50 <= read_header(tmp_path / "killed" / "checkpoint.gar")["steps"] < 400
    main(["train", "--resume", str(tmp_path / "killed" / "checkpoint.gar")])
    process = started(tmp_path / "stopped", 50, *long)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert f"Go on with: gar-env train --resume {tmp_path / 'stopped'}" in error
    main(["train", "--resume", str(tmp_path / "stopped")])
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")
    assert len(metrics(tmp_path / "whole")) == 134


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
    assert re.search(rf"test_accuracy +{logged:.4f}", capsys.readouterr().out)
    main(["train", "--resume", str(tmp_path)])
    assert re.search(rf"test_accuracy +{logged:.4f}", capsys.readouterr().out)


def test_two_processes_do_not_share_a_folder(tmp_path):
    from agents.files import lock

    held = lock(tmp_path / "run.lock", tmp_path)
    with pytest.raises(CheckpointError, match="Another process is writing to"):
        run(tmp_path)
    held.close()
    run(tmp_path)


def test_a_run_without_a_checkpoint_says_how_to_start_again(tmp_path, capsys):
    run(tmp_path)
    (tmp_path / "checkpoint.gar").unlink()
    with pytest.raises(SystemExit):
        main(["train", "--resume", str(tmp_path)])
    assert f"Rename {tmp_path / 'checkpoint.previous.gar'} to it" in capsys.readouterr().err
    (tmp_path / "checkpoint.previous.gar").unlink()
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
    assert saved["agent_options"]["normalise"] == "auto"
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
