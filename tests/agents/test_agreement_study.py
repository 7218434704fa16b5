"""``gar-env reproduce agreement``, small."""

import json
import math

import pytest
import torch

from agents.cli import main
from agents.studies.agreement.cases import ARMS, CONFOUND, RULES
from agents.studies.agreement.jobs import area
from agents.studies.agreement.plan import agreement_jobs, rules_jobs
from agents.studies.agreement.study import AgreementStudy
from agents.studies.agreement.tables import best_step_size, tables
from gar_env.errors import ConfigurationError


def test_the_study_runs_goes_on_and_reports(tmp_path, capsys):
    command = [
        *("reproduce", "agreement", "--out", str(tmp_path), "--seeds", "2", "--num-steps", "4", "--workers", "1"),
        *("--markdown", "--parts"),
    ]  # fmt: skip
    main([*command, "confound", "signals"])
    main([*command, "confound", "corrupted", "signals"])
    out = capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "sine.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * 2 * len(CONFOUND) + 1 + len(ARMS)
    assert all(math.isfinite(row["test_loss"]) for row in rows)
    assert "| uniform, three times the step | 0.3 |" in out
    assert "| oracle |" in out
    assert "| inner_gar | 0." in out
    oracle = next(row for row in rows if row["arm"] == "oracle")
    assert oracle["weight_on_corrupted"] == 0


def row(part, arm, size, seed, loss, case="reptile-10"):
    return {
        "part": part, "case": case, "arm": arm, "step_size": size, "seed": seed, "test_loss": loss,
        "test_accuracy": loss, "diverged": loss is None, "length_ratio": 1.0, "negative_share": 0.25,
        "weight_on_corrupted": 0.1,
    }  # fmt: skip


def test_each_rule_is_reported_at_the_step_size_that_was_best_on_other_seeds():
    tune = [
        row("tune", "uniform", size, 1000 + seed, loss + seed * 0.01)
        for size, loss in ((0.1, 2.0), (1.0, 0.5), (2.5, 0.1))
        for seed in range(2)
    ]
    tune += [row("tune", "uniform", 4.0, 1000, 0.01), row("tune", "uniform", 4.0, 1001, None)]  # one of them died
    tune += [
        row("tune", "agreement (the paper)", 0.6, 1000, 0.3),
        row("tune", "agreement (the paper)", 2.5, 1000, None),
    ]
    assert best_step_size(tune, "reptile-10", "uniform") == 2.5
    assert best_step_size(tune, "reptile-10", "agreement (the paper)") == 0.6
    assert best_step_size(tune, "reptile-10", "PCGrad") is None
    jobs = [job for job in rules_jobs(AgreementStudy(seeds=3), tune) if job.case == "reptile-10"]
    sizes = {arm: sorted({job.options["step_size"] for job in jobs if job.arm == arm}) for arm in RULES}
    assert sizes["uniform"] == [2.5]
    assert sizes["agreement (the paper)"] == [0.6, 2.5]
    assert {job.seed for job in jobs} == {0, 1, 2}
    found = [row("rules", "uniform", 2.5, seed, 0.08 + 0.01 * seed) for seed in range(3)]
    found += [row("rules", "agreement (the paper)", 0.6, seed, 0.3) for seed in range(3)]
    found += [row("rules", "agreement (the paper)", 2.5, seed, None) for seed in range(3)]
    (table, published) = tables([*tune, *found])
    assert published[0][3:] == ["0.13", "0.08"]
    assert table[0][:3] == ["uniform", "2.5", "0.090 [0.080, 0.100]"]
    assert table[1][:4] == ["agreement (the paper)", "0.6", "0.300 [0.300, 0.300]", "diverged"]


def test_the_oracles_gain_is_shared_out():
    losses = {"uniform": 0.5, "oracle": 0.3, "REINFORCE by inner_gar": 0.34}
    rows = [row("corrupted", arm, 3e-3, seed, loss, "sine") for arm, loss in losses.items() for seed in range(2)]
    (table,) = tables(rows)
    shares = {line[0]: line[2] for line in table}
    assert shares == {"uniform": "", "oracle": "", "REINFORCE by inner_gar": "0.80 [0.80, 0.80]"}
    nothing = [{**one, "test_loss": 0.5} for one in rows]
    (table,) = tables(nothing)
    assert table[1][2] == "none to share"


def test_an_area_is_how_often_a_clean_task_has_more():
    values, clean = torch.tensor([3.0, 1.0, 2.0, 1.0]), torch.tensor([True, True, False, False])
    pairs = [(3 > 2), (3 > 1), (1 > 2), 0.5]
    assert area(values, clean) == sum(map(float, pairs)) / 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": "sin"}, "tasks='sin' is unknown. Did you mean 'sine'"),
        ({"tasks": "miniimagenet"}, "miniImageNet has to be there already: pass --data"),
        ({"parts": ("tuning",)}, "parts='tuning' is unknown"),
        ({"seeds": 0}, "seeds=0 must be at least 1"),
        ({"tasks": "omniglot", "data": "nowhere.npz"}, "nowhere.npz"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused_at_once(options, message):
    with pytest.raises((ConfigurationError, FileNotFoundError)) as caught:
        agreement_jobs(AgreementStudy(**options))
    assert message in str(caught.value)
