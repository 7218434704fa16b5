"""``gar-env reproduce mixture``: sources, arms of equal length, tables by hand."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from agents.cli.main import main
from agents.studies.mixture import sources
from agents.studies.mixture.jobs import ARMS, MixtureJob, target_of
from agents.studies.mixture.sources import BOILERPLATE, NOISE, PACKAGES, mixture_dataset, wanted
from agents.studies.mixture.tables import tables
from gar_env.errors import ConfigurationError, DatasetFormatError


@pytest.fixture
def text(tmp_path, monkeypatch):
    """Two sources of 30 kB."""
    monkeypatch.setattr(sources, "TESTED_BYTES", 500)
    generator = np.random.default_rng(0)
    words = [b"one two three four five six ", b"rot gelb blau schwarz weiss "]
    arrays = {}
    for name, word in zip(("a", "b"), words, strict=True):
        arrays[f"{name}_train"] = np.frombuffer(word * 1100, np.uint8) ^ (generator.random(28 * 1100) < 0.02)
        arrays[f"{name}_test"] = arrays[f"{name}_train"][:3000]
    path = tmp_path / "text.npz"
    np.savez(path, **arrays)
    mixture_dataset.cache_clear()
    yield str(path)
    mixture_dataset.cache_clear()


def test_two_sources_that_nobody_wants_are_added_and_not_tested_on(text):
    data = mixture_dataset(text)
    assert data.groups == ("a", "b", NOISE, BOILERPLATE)
    assert wanted(data) == ["a", "b"]
    assert set(data.group_test.tolist()) == {0, 1}
    own = [data.x_train[data.group_train == i] for i in range(4)]
    np.testing.assert_array_equal(np.sort(own[2].flatten())[:1000], np.sort(own[0].flatten())[:1000])
    phrase = own[3].flatten()
    assert bool((phrase[: sources.PHRASE] == phrase[sources.PHRASE : 2 * sources.PHRASE]).all())


def test_the_standard_library_stands_in(monkeypatch):
    monkeypatch.setattr(sources, "TESTED_BYTES", 500)
    mixture_dataset.cache_clear()
    data = mixture_dataset("")
    mixture_dataset.cache_clear()
    assert data.groups == (*PACKAGES, NOISE, BOILERPLATE)
    assert b"import" in bytes(data.x_train[:200].flatten().tolist())


def test_a_target_is_fifty_kilobytes_of_each_wanted_source_or_half_of_it(text):
    assert target_of(mixture_dataset(text)) == "a(0.500000), b(0.500000)"


def test_every_arm_takes_as_many_steps_and_is_tested(text, tmp_path, capsys):
    options = ["--text", text, "--sgd-steps", "4", "--seeds", "1", "--workers", "1", "--markdown"]
    main(["reproduce", "mixture", *options, "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "out" / "mixture.jsonl").read_text().splitlines()]
    assert [row["arm"] for row in rows] == list(ARMS)
    for row in rows:
        assert set(row["losses"]) == {"a", "b"}
        assert row["test_loss"] == pytest.approx(np.mean(list(row["losses"].values())))
        assert sum(row["draws"].values()) == pytest.approx(1)
        assert f"| {row['arm']} |" in printed
    oracle = next(row for row in rows if row["arm"] == "oracle")
    assert oracle["draws"][NOISE] == oracle["draws"][BOILERPLATE] == 0


def test_shares_are_of_the_oracles_gain():
    def row(arm: str, seed: int, loss: float, cpu: float) -> dict:
        draws = {"a": 0.5, NOISE: 0.5}
        own = {"test_loss": loss, "draws": draws, "cpu_seconds": cpu, "diverged": False}
        return {"arm": arm, "seed": seed, "device": "cpu" if seed == 0 else "cuda", **own}

    rows = [row("uniform", s, 2.4 + 0.1 * s, 10.0) for s in range(2)]
    rows += [row("oracle", s, 2.2 + 0.1 * s, 10.0) for s in range(2)]
    rows += [row("target, softmax", s, 2.25 + 0.1 * s, 13.0 + 9 * s) for s in range(2)]
    lines = {line[0]: line for line in tables(rows)[0]}
    assert lines["target, softmax"][2].startswith("0.75")
    assert lines["target, softmax"][3].startswith("+0.150")
    assert lines["target, softmax"][4] == "1.30"
    assert lines["uniform"][2:4] == ["", ""]


def test_a_job_tells_other_data_and_lengths_apart(text):
    one, other = MixtureJob("uniform", 0, text, 10), MixtureJob("uniform", 0, text, 12)
    assert one.identity != other.identity
    assert one.steps == 10
    assert MixtureJob("distinct_gar, keep", 0, text, 10).steps == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sgd-steps", "3"], "sgd_steps=3 must be even"),
        (["--seeds", "0"], "seeds=0 must be at least 1"),
        (["--arms", "best"], "arms='best' is unknown"),
        (["--text", "nowhere.npz"], "text='nowhere.npz' is no file"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["reproduce", "mixture", *options, "--out", str(tmp_path)])
    assert message in re.sub(r"\s+", " ", capsys.readouterr().err)


def test_a_file_without_sources_is_refused(tmp_path):
    np.savez(tmp_path / "odd.npz", a_train=np.zeros(500, np.uint8))
    with pytest.raises(DatasetFormatError, match=r"odd.npz holds a_train; expected <source>_train and <source>_test"):
        mixture_dataset(str(tmp_path / "odd.npz"))
    with pytest.raises(ConfigurationError, match="is no file"):
        mixture_dataset(str(tmp_path / "none.npz"))
