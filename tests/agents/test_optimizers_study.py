import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from agents.cli.main import main
from agents.studies.optimizers import enumerate as enumeration
from agents.studies.optimizers.cases import EQUAL, FRESH, RULES, SEARCHED_ON, SEARCHES
from agents.studies.optimizers.enumerate import EnumerateJob, functions, table_of
from agents.studies.optimizers.jobs import Curve, OptimizerJob, compared
from agents.studies.optimizers.plan import optimizer_jobs
from agents.studies.optimizers.study import OptimizersStudy
from agents.studies.optimizers.tables import exported, tables
from gar_env.errors import ConfigurationError
from gar_env.optimizers import Rule
from gar_env.optimizers.table import RuleTable

COMMAND = "reproduce optimizers --children digits --seeds 1 --proposals 32 --rules 40 --workers 1 --markdown --out"


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    import contextlib
    import io

    folder, text = tmp_path_factory.mktemp("optimizers"), io.StringIO()
    with contextlib.redirect_stdout(text):
        main([*COMMAND.split(), str(folder)])
    rows = [json.loads(line) for line in (folder / "optimizers.jsonl").read_text().splitlines()]
    return text.getvalue(), rows


def test_it_prints_every_table_and_an_optimizer_to_take_away(printed):
    text, rows = printed
    assert {row["part"] for row in rows} == {"rules", "search", "references", "transfer", "rewards", "screen"}
    for name in (*RULES[:4], *SEARCHES, "alignment", "The screen"):
        assert name in text
    line = re.search(r"Rule\((.*)\)\.to_optimizer\(network.parameters\(\), lr=(.*)\)", text)
    assert line is not None
    best = max((row for row in rows if row["part"] == "search"), key=lambda row: row["validation_accuracy"])
    moved = {row["arm"]: row for row in rows if row["part"] == "transfer"}
    assert next(iter(moved)) == best["formula"]
    assert not {row["seed"] for row in moved.values()} & {*FRESH, *SEARCHED_ON}
    assert Rule(line[1].strip("'")) == Rule(best["formula"])
    assert float(line[2]) == best["step_size"]


def test_a_search_is_scored_on_seeds_that_it_was_not_paid_by(printed):
    _, rows = printed
    assert not set(FRESH) & set(SEARCHED_ON)
    for row in rows:
        if row["part"] == "search":
            assert len(row["accuracies"]) == len(FRESH)
            assert row["curve"][-1][0] == 32
            assert row["curve"][-1][3] <= row["curve"][-1][2] <= 32
    screened, whole = ([row for row in rows if row["arm"] == arm] for arm in ("random", "random, no screen"))
    assert screened[0]["curve"][-1][3] < whole[0]["curve"][-1][3]


def test_the_best_that_is_exported_is_the_best_on_fresh_seeds():
    rows = [
        {"part": "search", "arm": "random", "seed": i, "validation_accuracy": v, "formula": f, "step_size": 0.1}
        for i, (v, f) in enumerate([(0.9, "g"), (0.95, "m"), (0.93, "v")])
    ]
    lines = exported(rows)
    assert [line.split()[1] for line in lines[1:-1]] == ["m", "v", "g"]
    assert lines[-1] == "  Rule('m').to_optimizer(network.parameters(), lr=0.1)"
    assert exported([]) == []
    assert tables([]) == []


def test_each_run_has_an_identity_of_its_own():
    jobs = optimizer_jobs(OptimizersStudy(seeds=2, children=("digits",)))
    found = [json.dumps(job.identity) for job in jobs]
    assert len(set(found)) == len(jobs)
    assert (
        OptimizerJob("rules", "digits", "Adam", 0, 3).identity != OptimizerJob("rules", "digits", "Adam", 0, 4).identity
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": ("all",)}, "parts='all' is unknown"),
        ({"children": ("mnist",)}, "children='mnist' is unknown"),
        ({"seeds": 0}, "seeds=0 must be at least 1"),
        ({"proposals": 0}, "proposals=0 must be at least 1"),
    ],
)
def test_options_that_are_none_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        optimizer_jobs(OptimizersStudy(**options))


def test_all_functions_of_a_part_are_judged_and_kept(tmp_path, monkeypatch, capsys):
    some = {Rule(formula).key: formula for formula in ("g", "m", "Adam", "RMSProp", "-g", "1 / 1", "g * m", "exp(g)")}
    monkeypatch.setattr(enumeration, "functions", lambda: some)
    main(["reproduce", "optimizers", "--enumerate", "--workers", "1", "--markdown", "--out", str(tmp_path)])
    assert "| functions | 8 |" in capsys.readouterr().out
    table = RuleTable.load(tmp_path / "one_group.npz")
    adam, trained = table.of(Rule("Adam"))
    assert trained
    assert adam > 0.9
    assert table.of(Rule("-g")) == (pytest.approx(0.1), False)
    assert table.best >= adam
    with pytest.raises(ConfigurationError, match="v is not in the table, which has the functions of one group"):
        table.of(Rule("v"))
    (row,) = [json.loads(line) for line in (tmp_path / "one_group.jsonl").read_text().splitlines()]
    again = table_of([row])
    np.testing.assert_array_equal(again.keys, table.keys)
    np.testing.assert_allclose(again.means, table.means, atol=1e-4)


def test_functions_are_found_once(monkeypatch):
    """On a few operands and functions: every string's key is there."""
    grammar = enumeration.Grammar(1)
    monkeypatch.setattr(type(grammar), "choices", lambda self, place: _fewer(place))
    found = functions()
    assert len(found) == len(set(found)) > 4
    assert {Rule(formula).key for formula in found.values()} == set(found)


def _fewer(place):
    first = [0, 0, 17, 17, 29][place]
    return range(first, first + [3, 3, 2, 2, 2][place])


def test_a_part_repeats():
    job = EnumerateJob(0, tuple((Rule(f).key, f) for f in ("g", "-g")))
    one, two = job.run(lambda: None), job.run(lambda: None)
    assert one["accuracies"] == two["accuracies"]
    assert one["rejected"] == [Rule("-g").key]


def test_a_search_is_held_against_random_ones():
    def row(arm, seed, fresh):
        curve = [[32, 0.9, 32, 10, 0.2], [64, 0.9, 64, 30, 0.2], [96, 0.95, 96, 110 if arm == "random" else 40, 0.2]]
        return {
            "part": "search", "arm": arm, "seed": seed, "child": "digits", "validation_accuracy": fresh,
            "search_accuracy": 0.97, "test_accuracy": fresh, "curve": curve, "search_cpu_seconds": 1.0,
            "formula": "g", "step_size": 0.1,
            "early_formula": "m", "early_validation_accuracy": fresh - 0.01, "early_test_accuracy": fresh,
        }  # fmt: skip

    rows = [row("random", s, 0.90 + 0.01 * s) for s in range(3)] + [row("evolution", s, 0.95) for s in (5, 6)]
    found, equal, curve, by_cost = ({line[0]: line for line in table} for table in tables(rows))
    assert found["random"][3] == ""
    assert found["evolution"][3].startswith("+0.040 [+0.03")
    assert found["evolution"][7] == "2"
    assert equal["evolution"][1].startswith("0.940")
    assert equal["evolution"][2].startswith("+0.040 [+0.03")
    assert equal["random"][5:] == ["110", "96"]
    assert equal["evolution"][5:] == ["40", "96"]  # it ended before
    assert curve["random"][1:] == ["0.900 (30)"]
    assert by_cost["random"][1:] == ["0.950 (3)", "0.950 (3)", "0.950 (3)"]
    assert by_cost["evolution"][1:] == ["0.950 (2)", "", ""]


def test_a_search_is_told_at_equal_cost_too():
    """The best rule of the first episode after which enough rules had been trained, not of a later one."""

    class Env:
        def __init__(self):
            self.verdicts, self.config, self.trained = [SimpleNamespace(reward=0.5)], SimpleNamespace(longest=1), 0

        def metrics(self):
            return {"best_reward": 0.5, "judged": 32.0, "trained": float(self.trained)}

        def leaderboard(self, count):
            return [SimpleNamespace(rule=f"rule after {self.trained}", reward=0.5)]

    env = Env()
    curve = Curve(env, lambda: None)
    for env.trained in (EQUAL - 1, EQUAL + 3, EQUAL + 9):
        curve.on_step()
    assert curve.early == f"rule after {EQUAL + 3}"
    assert [point[3] for point in curve.points] == [EQUAL - 1, EQUAL + 3, EQUAL + 9]


def test_signals_are_compared_by_hand():
    target = np.array([0.9, 0.8, 0.7, 0.6, 0.1, 0.1, 0.1, 0.1])
    trains = target > 0.5
    right = compared(target.copy(), target, trains)
    assert right["auc"][0] == 1
    assert right["rank_correlation"][0] == pytest.approx(1)
    assert right["top_found"] == 1
    wrong = compared(-target, target, trains)
    assert wrong["auc"][0] == 0
    assert wrong["rank_correlation"][0] == pytest.approx(-1)
    half = compared(np.zeros(8), target, trains)
    assert half["auc"][0] == 0.5


def test_the_screen_keeps_what_is_above_its_threshold(monkeypatch):
    from agents.studies.optimizers import jobs

    class Half:
        def __init__(self, children, seed):
            pass

        def scores(self, rules):
            return torch.tensor([0.9 if str(rule.canonical) in ("Adam", "m") else 0.0 for rule in rules])

    monkeypatch.setattr(jobs, "SharedTrajectory", Half)
    monkeypatch.setattr(OptimizerJob, "_random", lambda self, count: [Rule(f) for f in ("Adam", "m", "RMSProp", "-g")])
    row = OptimizerJob("screen", "digits", "screen", 0, 4).run(lambda: None)
    assert (row["kept"], row["train"], row["top"]) == (0.5, 3, 1)
    assert row["trains_kept"] == pytest.approx(2 / 3)
    assert row["missed"] == ["RMSProp"]


def test_cheap_rewards_are_of_one_seed_and_the_target_of_others(monkeypatch):
    seeds = []
    from gar_env.optimizers.children import Children

    train = Children.train
    monkeypatch.setattr(
        Children, "train", lambda self, rules, own, **kw: seeds.append(list(own)) or train(self, rules, own, **kw)
    )
    OptimizerJob("rewards", "digits", "cheap", 4, 8).run(lambda: None)
    assert seeds == [[4], [4], [5, 6, 7]]
