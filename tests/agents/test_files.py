"""Files of a run: no link is followed, damage is seen, a full disk is one sentence."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from contextlib import nullcontext

import pytest

from agents.cli import main
from agents.files import append, check_writable, lock, read_regular, sweep, write_whole
from agents.jobs.results import ResultsFile
from agents.training.checkpoints import read_header
from agents.training.metrics import MetricsLog
from gar_env.errors import CheckpointError
from trainings import run

TRAIN = ["train", "--num-envs", "16", "--env-options.num-steps", "30", "--checkpoint-every", "10", "--log-every", "5"]


@pytest.fixture
def victim(tmp_path):
    path = tmp_path / "victim.txt"
    path.write_text("precious")
    return path


@pytest.mark.parametrize("kind", ["symbolic", "hard"])
@pytest.mark.parametrize("way", ["write_whole", "append", "lock"])
def test_what_a_link_leads_to_is_never_changed(tmp_path, victim, kind, way):
    link = tmp_path / "folder" / "file"
    link.parent.mkdir()
    (os.symlink if kind == "symbolic" else os.link)(victim, link)
    call = {"write_whole": lambda: write_whole(link, b"mine"), "append": lambda: append(link, b"mine")}
    refused = kind == "symbolic" and way != "write_whole"  # which replaces the link
    with pytest.raises(CheckpointError, match="is a link") if refused else nullcontext():
        call.get(way, lambda: lock(link, link.parent).close())()
    assert victim.read_text() == "precious"


def test_a_predictable_temporary_name_is_not_used(tmp_path, victim):
    for name in ("file.tmp", "file.old", ".file.tmp"):
        os.symlink(victim, tmp_path / name)
    write_whole(tmp_path / "file", b"mine")
    assert victim.read_text() == "precious"
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_a_lock_leaves_the_file_as_it_is_and_is_held_once(tmp_path):
    (tmp_path / "lock").write_text("note")
    held = lock(tmp_path / "lock", tmp_path)
    with pytest.raises(CheckpointError, match="Another process is writing"):
        lock(tmp_path / "lock", tmp_path)
    held.close()
    assert (tmp_path / "lock").read_text() == "note"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, make):
    make(tmp_path / "odd")
    with pytest.raises((CheckpointError, IsADirectoryError)):
        read_regular(tmp_path / "odd")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run(folder, "--checkpoint-every", "4")
    return folder


@pytest.fixture
def finished(whole, tmp_path):
    """A copy of a run and all its files."""
    return shutil.copytree(whole, tmp_path / "whole")


LINKS = ["run.lock", "progress.csv.tmp", "progress.csv", "config.json", "checkpoint.gar", "checkpoint.previous.gar"]


@pytest.mark.parametrize("name", LINKS)
def test_resuming_in_a_foreign_folder_changes_nothing_outside_of_it(finished, victim, name, capsys):
    path = finished / name
    if path.exists():
        victim.write_bytes(path.read_bytes())
        path.unlink()
    before = victim.read_bytes()
    os.symlink(victim, path)
    try:
        main(["train", "--resume", str(finished)])
    except SystemExit:
        assert "is a link" in capsys.readouterr().err
    assert victim.read_bytes() == before
    assert not [file for file in finished.iterdir() if file.name.endswith(".tmp") and file.name != name]


def refused(folder, capsys) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["train", "--resume", str(folder)])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("gar-env: ")
    assert "Traceback" not in said
    return said


def test_a_flipped_bit_anywhere_in_a_checkpoint_is_seen(finished, capsys):
    path = finished / "checkpoint.gar"
    content = path.read_bytes()
    header_end = content.index(b"\n", content.index(b"\n", content.index(b"\n") + 1) + 1)
    for position in [*range(0, header_end, 37), header_end + 10, len(content) // 2, len(content) - 1]:
        damaged = bytearray(content)
        damaged[position] ^= 4
        path.write_bytes(bytes(damaged))
        said = refused(finished, capsys)
        assert "checkpoint" in said, position
    path.write_bytes(content)
    main(["train", "--resume", str(finished)])


def test_a_checkpoint_of_an_older_format_is_named(finished, capsys):
    path = finished / "checkpoint.gar"
    for written, number in ((b"gar-env checkpoint\n{}\nabc", 1), (b"gar-env checkpoint 2\nabc\n{}\nabc", 2)):
        path.write_bytes(written)
        said = refused(finished, capsys)
        assert f"has format {number}" in said
        assert "a pickle, which could run any code. This version reads format 3." in said
    path.rename(path.with_suffix(".pkl"))
    assert "is of an older format, a pickle" in refused(finished, capsys)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: "\n".join(text.splitlines()[:3]) + "\n",
        lambda text: text.replace("0.", "1.", 1) if "0." in text else text + "x",
        lambda text: None,
    ],
    ids=["emptied", "cut", "altered", "deleted"],
)
def test_a_log_that_is_not_as_the_checkpoint_left_it_is_seen_and_left_alone(finished, damage, capsys):
    path = finished / "progress.csv"
    changed = damage(path.read_text())
    path.unlink() if changed is None else path.write_text(changed)
    said = refused(finished, capsys)
    assert "not as the checkpoint left it" in said or "is no progress.csv" in said
    assert path.exists() == (changed is not None)
    assert changed is None or path.read_text() == changed


def test_a_log_that_became_wider_after_the_checkpoint_is_the_same_log(tmp_path):
    log = MetricsLog(tmp_path, tensorboard=False)
    log.write(10, {"a": 1.0})
    seal = log.seal
    log.write(20, {"a": 2.0, "b": 3.0})
    assert MetricsLog(tmp_path, after=10, tensorboard=False, seal=seal).seal == seal


@pytest.mark.parametrize("name", ["env", "agent", "env_options", "agent_options"])
def test_a_configuration_without_a_field_is_one_sentence(finished, name, capsys):
    path = finished / "config.json"
    saved = json.loads(path.read_text())
    del saved[name]
    path.write_text(json.dumps(saved))
    assert "config.json" in refused(finished, capsys)


@pytest.mark.parametrize("row", ["{}", '{"recipe": "paper"}', "[1]", "nonsense", '{"recipe": 3, "network": null}'])
def test_results_of_something_else_are_named_not_drawn(tmp_path, row, capsys):
    path = tmp_path / "foreign.jsonl"
    path.write_text(row + "\n")
    with pytest.raises(SystemExit) as ended:
        main(["plot", str(path)])
    assert ended.value.code == 2
    assert "foreign.jsonl" in capsys.readouterr().err


def limited(size: int):
    """Runs in a child: no file may grow beyond, as on a full disk."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("command", [["demo", "--seeds", "1"], [*TRAIN, "--no-tensorboard"]], ids=["demo", "train"])
def test_a_full_disk_is_one_sentence_and_leaves_no_partial_file(tmp_path, command):
    out = tmp_path / "out"
    found = subprocess.run(
        [sys.executable, "-m", "agents.cli", *command, "--out", str(out)],
        capture_output=True,
        text=True,
        preexec_fn=limited(6000),
        check=False,
    )
    assert found.returncode == 2, found.stderr
    assert "There is no room left" in found.stderr
    assert "Traceback" not in found.stderr
    assert not list(out.glob(".*tmp"))
    assert not list(out.glob("*.png"))


def test_a_line_that_does_not_fit_is_taken_back(tmp_path):
    path = tmp_path / "rows.jsonl"
    code = (
        "import sys, resource, signal; from pathlib import Path; from agents.files import append\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "append(Path(sys.argv[1]), b'a' * 700)\n"
        "try: append(Path(sys.argv[1]), b'b' * 700)\n"
        "except OSError as error: print(error.errno, error.filename)"
    )
    found = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert path.read_bytes() == b"a" * 700
    number, name = found.stdout.split()
    assert (int(number) in (errno.ENOSPC, errno.EFBIG), name) == (True, str(path))


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_computed(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit):
        main(["demo", "--seeds", "1", "--out", str(tmp_path / "file")])
    said = capsys.readouterr()
    assert "Check the path and its permissions" in said.err
    assert "share of draws" not in said.out
    with pytest.raises(OSError, match="file"):
        check_writable(tmp_path / "file" / "below")


def test_results_with_a_second_name_elsewhere_are_replaced_not_written_into(tmp_path, victim):
    victim.write_text('{"a": 1}\n')
    os.link(victim, tmp_path / "mine.jsonl")
    results = ResultsFile(tmp_path / "mine.jsonl")
    results.append({"b": 2})
    assert victim.read_text() == '{"a": 1}\n'
    assert (tmp_path / "mine.jsonl").read_text() == '{"a": 1}\n{"b": 2}\n'


def test_a_header_is_read_without_the_rest(finished):
    assert read_header(finished / "checkpoint.gar")["steps"] == 12


def test_what_a_killed_writer_left_is_swept_by_who_holds_the_lock(tmp_path):
    left = [tmp_path / ".rows.jsonl.0123456789abcdef.tmp", tmp_path / ".other.pkl.0123456789abcdef.tmp"]
    foreign = [tmp_path / ".rows.jsonl.tmp", tmp_path / "rows.jsonl.0123456789abcdef.tmp"]
    for path in left + foreign:
        path.write_text("half")
    ResultsFile(tmp_path / "rows.jsonl").close()
    assert [path.exists() for path in left] == [False, True]
    sweep(tmp_path / "other.pkl")
    assert not left[1].exists()
    assert all(path.exists() for path in foreign)
