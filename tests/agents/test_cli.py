import subprocess
import sys
from pathlib import Path

import pytest

from agents.cli import main


def test_the_demo_prints_usage_and_accuracy_and_draws(tmp_path, capsys):
    main(["demo", "--seeds", "1", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "0 (label_noise)" in printed
    for controller in ("uniform", "gar", "oracle"):
        assert controller in printed
    assert (tmp_path / "split_probabilities.png").stat().st_size > 10_000


def test_reproduce_and_plot_make_tables_results_and_figure(tmp_path, capsys):
    options = ["--dataset", "digits", "--seeds", "1", "--networks", "fc", "--batch-size", "16", "--steps", "10"]
    main(["reproduce", "table1", *options, "--workers", "1", "--out", str(tmp_path), "--markdown"])
    printed = capsys.readouterr().out
    assert "| fc | gar | 0.65 / 0.93 |" in printed
    main(["plot", str(tmp_path / "paper.jsonl"), "--out", str(tmp_path / "figure.png")])
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_errors_are_one_message_without_a_traceback(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["reproduce", "table1", "--dataset", "no/such.npz"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("gar-env: Nothing at no/such.npz. Pass an .npz file")


def test_help_names_every_command():
    found = subprocess.run([sys.executable, "-m", "agents.cli", "--help"], capture_output=True, text=True, check=True)
    for command in ("demo", "reproduce table1", "plot"):
        assert command in found.stdout


def test_a_real_data_set_runs_through(cifar10_path, tmp_path, capsys):
    options = ["--dataset", cifar10_path, "--seeds", "1", "--arms", "gar", "--batch-size", "50", "--steps", "10"]
    main(["reproduce", "table1", *options, "--workers", "1", "--out", str(tmp_path)])
    assert len(Path(tmp_path / "paper.jsonl").read_text().splitlines()) == 3


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
