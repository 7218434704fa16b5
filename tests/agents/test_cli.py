import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


@pytest.mark.parametrize("name", ["photo.png", "gray.png"])
def test_augment_prints_a_space_and_draws_it_on_a_picture(tmp_path, capsys, name):
    shape = (700, 900) if name == "gray.png" else (40, 50, 3)
    Image.fromarray(np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)).save(tmp_path / name)
    main(["augment", str(tmp_path / name), "--space", "wl[rotate,color]", "--plot", str(tmp_path / "out.png")])
    printed = capsys.readouterr().out
    assert "| rotate | 0 | 67 | 135 | degrees | either | 0 |" in printed
    assert ("Drawn at 199x256 pixels" in printed) == (name == "gray.png")
    assert (tmp_path / "out.png").stat().st_size > 10_000


def test_augment_says_what_is_wrong_with_a_file(tmp_path, capsys):
    picture = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)).save(picture)
    (tmp_path / "cut.png").write_bytes(picture.read_bytes()[:4000])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "binary.json").write_bytes(bytes(range(200, 256)))
    out = str(tmp_path / "out.png")
    for arguments, message in (
        (["augment", str(tmp_path / "cut.png"), "--plot", out], "cut.png cannot be read: "),
        (["augment", str(tmp_path / "text.png"), "--plot", out], "text.png is no image that Pillow reads"),
        (["augment", str(tmp_path / "none.png"), "--plot", out], "none.png: No such file or directory"),
        (
            ["augment", str(picture), "--plot", str(tmp_path / "out.xyz")],
            "out.xyz would be a PNG file. Call it out.png",
        ),
        (["augment", str(picture)], "is there to be drawn on. Say where to: --plot operations.png"),
        (["augment", "--space", str(tmp_path / "binary.json")], "cannot be read: it is no text"),
        (["augment", "--space", "wl[rotat]"], "Did you mean 'rotate'?"),
        (["plot", str(tmp_path)], "is no finished run of the controller ola"),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert message in capsys.readouterr().err


def test_a_policy_file_that_is_none_is_refused_and_operations_without_strength_are_drawn(tmp_path, capsys):
    options = ["--env", "GAR/Augment-v0", "--agent", "ola", "--num-envs", "8", "--no-tensorboard"]
    options += [
        "--env-options.network",
        "fc",
        "--env-options.num-steps",
        "3",
        "--env-options.space",
        "wl[flip_lr,invert]",
    ]
    main(["train", *options, "--out", str(tmp_path / "run")])
    main(["plot", str(tmp_path / "run")])
    names = {path.name for path in (tmp_path / "run").glob("*.png")}
    assert names == {"policy.png", "policy_samples.png"}  # no strengths
    (tmp_path / "run" / "policy.npz").write_text("garbage")
    with pytest.raises(SystemExit):
        main(["plot", str(tmp_path / "run")])
    assert "policy.npz is cut short, or no file of ola" in capsys.readouterr().err


def test_a_run_without_its_configuration_is_refused(tmp_path, capsys):
    options = ["--env", "GAR/Augment-v0", "--agent", "ola", "--num-envs", "8", "--no-tensorboard"]
    main(["train", *options, "--env-options.network", "fc", "--env-options.num-steps", "2", "--out", str(tmp_path)])
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SystemExit):
        main(["plot", str(tmp_path)])
    assert "is not there, or no configuration of a run" in capsys.readouterr().err
    with np.load(tmp_path / "policy.npz") as file:
        np.savez(tmp_path / "policy.npz", **{name: file[name] for name in file if name != "space"})
    with pytest.raises(SystemExit):
        main(["plot", str(tmp_path)])
    assert "does not say what its operations are" in capsys.readouterr().err
