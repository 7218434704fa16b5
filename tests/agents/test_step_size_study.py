"""``gar-env reproduce stepsize``, small."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from agents.cli import main
from agents.step_sizes import StepSizeController
from agents.step_sizes.evaluation import SEED
from agents.studies.step_size import jobs
from agents.studies.step_size.cases import GRID
from agents.studies.step_size.jobs import step_size_jobs
from agents.studies.step_size.study import StepSizeStudy
from agents.studies.step_size.tables import Found, best_constant, found_in, tables
from gar_env.errors import ConfigurationError

pytest.importorskip("prodigyopt")


def test_the_study_runs_goes_on_and_reports(tmp_path, capsys):
    command = [
        *("reproduce", "stepsize", "--out", str(tmp_path), "--seeds", "1", "--updates", "1", "--runs", "1"),
        *("--tests", "digits", "--rules", "sgd", "--workers", "1", "--markdown", "--arms"),
    ]  # fmt: skip
    main([*command, "constant", "Prodigy"])
    main([*command, "constant", "Prodigy", "multiply"])
    out = capsys.readouterr().out
    assert "3 of 4 runs are in" in out
    rows = [json.loads(line) for line in (tmp_path / "stepsize.jsonl").read_text().splitlines()]
    assert [row["arm"] for row in rows] == [
        *("constant", "Prodigy", "constant, learned", "overhead", "overhead", "multiply"),
    ]
    learned = rows[-1]
    assert len(learned["weights"]) == 5
    assert np.shape(learned["tests"]["digits"]["log_losses"]) == (len(GRID), 1)
    assert np.shape(learned["perturbed"]) == (32,)
    assert np.shape(learned["step_sizes"]) == (6, 60)
    assert "| weights ± 20 %, multiply, sgd | harmless |" in out
    assert "| features, sgd, digits 64-32-10, 64 at once | 36 % |" in out
    for name in ("sensitivity_sgd", "step_sizes_sgd"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000


def row(arm, losses, seed=0, rule="sgd"):
    shaped = np.array(losses, float)
    test = {"log_losses": shaped, "diverged": shaped > 1, "accuracies": shaped * 0}
    return {"arm": arm, "rule": rule, "seed": seed, "learning_seconds": 1.0, "tests": {"digits": test}}


def test_tables_say_how_far_from_the_best_constant_and_how_even():
    constant = np.ones((len(GRID), 2))
    constant[8] = [-1.0, -1.4]
    constant[7] = [-1.2, -0.8]
    learned = [np.full((len(GRID), 2), -1.0), np.full((len(GRID), 2), -1.2)]
    learned[0][0] = -0.5
    rows = [row("constant", constant), *(row("multiply", one, seed) for seed, one in enumerate(learned))]
    size, best, oracle = best_constant(rows, "sgd", "digits")
    assert (size, best) == (GRID[8], pytest.approx(-1.2))
    assert oracle.tolist() == [-1.2, -1.4]
    found = found_in(rows, "multiply", "sgd", "digits")
    assert isinstance(found, Found)
    assert found.spread == pytest.approx(0.25)
    overview, detail, _ = tables(rows)
    assert overview[0][0] == "multiply"
    mean = (np.mean(learned[0]) + np.mean(learned[1])) / 2 + 1.2
    assert overview[0][1].startswith(f"{mean:+.2f}")
    assert detail[0][5] == f"{np.mean(learned) - np.mean(oracle):.2f}"


def test_weights_are_perturbed_each_by_itself_by_up_to_a_fifth(monkeypatch):
    seen = []

    def watched(agent, starts, seeds, **options):
        seen.append((agent.weights, list(starts), list(seeds)))
        return SimpleNamespace(log_losses=np.zeros(len(seeds)))

    monkeypatch.setattr(jobs, "run_all", watched)
    controller = StepSizeController("multiply", (-0.1, 0.2, 0.3, -0.4, 0.5))
    (job, *_) = step_size_jobs(StepSizeStudy(arms=("multiply",), rules=("sgd",), seeds=1))
    assert job._perturbed(controller) == {"perturbed": [0.0] * 32}
    (weights, starts, seeds), = seen  # fmt: skip
    factors = weights / torch.tensor(controller.weights)
    assert factors.shape == (32, 5)
    assert 0.8 <= float(factors.min()) < 0.85
    assert 1.15 < float(factors.max()) <= 1.2
    assert len(factors.unique()) > 150
    assert (starts[:11], set(seeds)) == ([*GRID], {SEED})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": ("multipy",)}, "arms='multipy' is unknown. Did you mean 'multiply'"),
        ({"arms": ("relative, noisy",)}, "'relative, noisy labels'"),
        ({"tests": ("mnist",)}, "tests='mnist' is unknown"),
        ({"tests": ()}, "There are no tests"),
        ({"rules": ("sdg",)}, "Did you mean 'sgd'"),
        ({"seeds": 0}, "seeds=0 must be at least 1"),
        ({"updates": 0}, "updates=0 must be at least 1"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused_at_once(options, message):
    with pytest.raises(ValueError, match=r".*") as caught:
        step_size_jobs(StepSizeStudy(**options))
    assert message in str(caught.value)
    assert isinstance(caught.value, (ConfigurationError, ValueError))
