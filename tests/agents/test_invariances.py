"""The benchmark with a known answer: its score, and what GAR reaches on it."""

import re

import pytest
import torch

from agents.cli import main
from agents.studies.invariances.jobs import ARMS, InvarianceJob, invariance_jobs, invariance_table, lies, score
from gar_env.augment import SPACES
from gar_env.errors import ConfigurationError, UnknownNameError

WL = SPACES["wl"]


def test_the_score_is_0_by_chance_1_without_lies_and_negative_with_more():
    by_chance = torch.ones(len(WL), 31)
    assert score(by_chance, WL) == pytest.approx(0)
    assert score(0.01 * by_chance, WL) == pytest.approx(0), "applying less is no merit"
    assert score(by_chance * (lies(WL) == 0), WL) == 1
    assert score(by_chance * (lies(WL) == 1), WL) < -4
    assert score(0 * by_chance, WL) is None
    only_identity = torch.zeros(len(WL), 31)
    only_identity[WL.index("identity")] = 100
    assert score(only_identity, WL) is None, "what changes nothing is not applied"
    with pytest.raises(ConfigurationError, match="turns arrows into others; there is nothing to score"):
        score(torch.ones(2, 31), WL.subset(["color", "blur"]))


def test_gar_finds_out_what_lies_and_chance_does_not():
    rows = {arm: InvarianceJob(arm, 0, steps=120).run(lambda: None) for arm in ("gar", "random")}
    assert rows["gar"]["score"] > 0.7
    assert abs(rows["random"]["score"]) < 0.15
    assert rows["gar"]["score_by_quarter"][0] < rows["gar"]["score_by_quarter"][3]
    assert rows["random"]["operations_per_example"] == pytest.approx(1.13, abs=0.05)


def test_the_command_prints_a_table_and_goes_on_where_it_stopped(tmp_path, capsys):
    options = ["--seeds", "1", "--batch-size", "16", "--steps", "4", "--workers", "1", "--out", str(tmp_path)]
    main(["bench", "invariances", *options, "--arms", "gar", "--markdown"])
    assert "| gar |" in capsys.readouterr().out
    main(["bench", "invariances", *options])
    printed = capsys.readouterr().out
    assert "1 of 4 runs are in" in printed
    for arm in ARMS:
        assert f"| {arm} |" in printed


def test_wrong_options_are_refused():
    for options, error, message in (
        ({"seeds": 0}, ConfigurationError, "seeds=0 must be at least 1"),
        ({"seeds": 1, "steps": 3}, ConfigurationError, "steps=3 at least 4"),
        ({"seeds": 1, "arms": ["garr"]}, UnknownNameError, "No reward signal is called 'garr'. Did you mean 'gar'?"),
        ({"seeds": 1, "arms": []}, ConfigurationError, "There are no arms. Name some of cosine_gar"),
        ({"seeds": 1, "space": "wl[color,blur]"}, ConfigurationError, "there is nothing to score"),
        ({"seeds": 1, "space": "wide"}, UnknownNameError, "No search space is called 'wide'"),
    ):
        with pytest.raises(error, match=re.escape(message)):
            invariance_jobs(**options)


def test_a_table_of_no_rows_is_empty():
    assert len(invariance_table([])) == 0
