"""Weights of tasks from how their updates agree, against the updates themselves."""

import itertools
import math

import pytest
import torch

from gar_env.agreement import (
    AGREEMENT_RULES,
    AgreementRule,
    build_agreement_rule,
    combine,
    gram,
    register_agreement_rule,
    task_weights,
)
from gar_env.errors import ConfigurationError, UnknownNameError


def updates(n=5, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    shapes = {"w": (n, 3, 4), "b": (n, 4), "scale": (n,)}
    return {name: torch.randn(shape, generator=g, dtype=dtype) for name, shape in shapes.items()}


def flat(each):
    return torch.cat([g.flatten(1) if g.ndim > 1 else g[:, None] for g in each.values()], 1)


def test_the_gram_matrix_is_of_all_tensors_put_end_to_end():
    each = updates()
    torch.testing.assert_close(gram(each), flat(each) @ flat(each).T)
    low = gram({name: g.float() for name, g in each.items()})
    assert low.dtype is torch.float64
    torch.testing.assert_close(low, gram(each), rtol=1e-5, atol=1e-5)


def test_agreement_is_the_papers():
    each = updates()
    g = flat(each)
    s = torch.stack([sum(g[i] @ g[j] for j in range(5)) for i in range(5)])
    torch.testing.assert_close(task_weights(each, rule="agreement"), s / s.abs().sum())
    s = torch.stack([sum(g[i] @ g[j] for j in range(5) if j != i) for i in range(5)])
    torch.testing.assert_close(task_weights(each, rule="agreement_others"), s / s.abs().sum())


def test_the_papers_own_example_inverts_once_the_odd_one_out_is_louder():
    each = {"w": torch.tensor([[1.0], [1.0], [1.0], [-10.0]])}
    weights = task_weights(each)
    torch.testing.assert_close(weights, torch.tensor([-1, -1, -1, 10]) / 13)
    assert float(combine(each, weights)["w"]) == pytest.approx(-103 / 13)


def test_damped_solves_its_equation_and_has_the_mean_and_the_shortest_as_limits():
    each = updates()
    table = gram(each)
    w = build_agreement_rule("damped(0.3)")(table)
    scaled = table / table.diagonal().mean()
    torch.testing.assert_close(scaled @ w + 0.3 * w, torch.ones(5, dtype=torch.float64))
    uniform = task_weights(each, rule="damped(1e6)", normalise="mean")
    torch.testing.assert_close(uniform, torch.full_like(uniform, 0.2), rtol=1e-3, atol=1e-5)
    shortest = task_weights(each, rule="damped(1e-9)", normalise="mean")
    products = table @ shortest  # of the shortest point with each update: all alike
    torch.testing.assert_close(products, products.mean().expand(5), rtol=1e-4, atol=1e-6)


def test_pcgrad_is_the_mean_of_updates_without_what_is_against_others():
    each = updates(seed=3)
    g = flat(each)
    projected = []
    for i in range(5):
        own = g[i].clone()
        for step in range(1, 5):
            other = g[(i + step) % 5]
            if own @ other < 0:
                own = own - (own @ other) / (other @ other) * other
        projected.append(own)
    weights = task_weights(each, rule="pcgrad", normalise="none")
    torch.testing.assert_close(weights @ g, torch.stack(projected).mean(0))


@pytest.mark.parametrize("rule", list(AGREEMENT_RULES))
def test_weights_are_on_the_scale_that_was_asked_for(rule):
    each = updates(seed=7)
    g = flat(each)
    assert float(task_weights(each, rule=rule, normalise="l1").abs().sum()) == pytest.approx(1)
    long = task_weights(each, rule=rule, normalise="length")
    assert float((long @ g).norm()) == pytest.approx(float(g.mean(0).norm()))
    raw = task_weights(each, rule=rule, normalise="none")
    if raw.sum() > 0.1:
        assert float(task_weights(each, rule=rule, normalise="mean").sum()) == pytest.approx(1)
    directions = [task_weights(each, rule=rule, normalise=kind) @ g for kind in ("l1", "length", "none")]
    for one, other in itertools.pairwise(directions):
        assert float(torch.cosine_similarity(one, other, 0)) == pytest.approx(1)


@pytest.mark.parametrize("rule", [*AGREEMENT_RULES, "torchjd:MGDA"])
@pytest.mark.parametrize("normalise", ["l1", "length", "mean", "none"])
def test_a_task_that_is_not_finite_weighs_nothing_and_the_others_are_weighed_without_it(rule, normalise):
    if rule.startswith("torchjd"):
        pytest.importorskip("torchjd")
    each = updates()
    each["b"][2, 1] = math.nan
    each["w"][4, 0, 0] = math.inf
    weights = task_weights(each, rule=rule, normalise=normalise)
    assert weights[[2, 4]].tolist() == [0, 0]
    sound = {name: g[[0, 1, 3]] for name, g in updates().items()}
    expected = task_weights(sound, rule=rule, normalise=normalise)
    torch.testing.assert_close(weights[[0, 1, 3]], expected)
    assert all(bool(g.isfinite().all()) for g in combine(each, weights).values())


@pytest.mark.parametrize("rule", list(AGREEMENT_RULES))
def test_where_a_rule_says_nothing_weights_are_uniform(rule):
    nothing = {"w": torch.zeros(4, 3)}
    assert task_weights(nothing, rule=rule).tolist() == [0.25] * 4
    opposed = task_weights({"w": torch.tensor([[2.0, 1.0], [-2.0, -1.0]])}, rule=rule)
    assert opposed.isfinite().all()
    if rule == "agreement":
        assert opposed.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e6])
def test_weights_do_not_depend_on_the_scale_of_updates(scale):
    each = updates()
    scaled = {name: scale * g for name, g in each.items()}
    for rule in AGREEMENT_RULES:
        for normalise in ("l1", "length"):
            expected = task_weights(each, rule=rule, normalise=normalise)
            torch.testing.assert_close(task_weights(scaled, rule=rule, normalise=normalise), expected)


def test_updates_in_half_precision_do_not_overflow():
    each = {"w": 100 * torch.randn(4, 50, generator=torch.Generator().manual_seed(0))}
    half = {"w": each["w"].half()}
    torch.testing.assert_close(task_weights(half).float(), task_weights(each), rtol=0.02, atol=2e-3)


def test_weights_of_nothing_but_zeros_combine_to_zeros():
    found = combine(updates(), torch.zeros(5))
    assert {name: tuple(g.shape) for name, g in found.items()} == {"w": (3, 4), "b": (4,), "scale": ()}
    assert not any(bool(g.any()) for g in found.values())


def test_parameters_of_networks_are_updates_in_order():
    torch.manual_seed(0)
    networks = [torch.nn.Linear(2, 2) for _ in range(3)]
    stacked = {name: torch.stack([getattr(n, name).detach() for n in networks]) for name in ("weight", "bias")}
    expected = task_weights(stacked)
    torch.testing.assert_close(task_weights([n.parameters() for n in networks]), expected)


def test_updates_come_as_tables_as_state_dicts_and_as_lists_of_parameters():
    each = updates()
    dicts = [{name: g[i] for name, g in each.items()} for i in range(5)]
    lists = [list(own.values()) for own in dicts]
    expected = task_weights(each)
    for other in (dicts, lists, tuple(dicts)):
        torch.testing.assert_close(task_weights(other), expected)
        found = combine(other, expected)
        for g, own in zip(combine(each, expected).values(), found.values(), strict=True):
            torch.testing.assert_close(g, own)


def test_the_maintained_librarys_rules_are_there():
    torchjd = pytest.importorskip("torchjd.aggregation")
    table = gram(updates())
    torch.testing.assert_close(build_agreement_rule("torchjd:MGDA")(table), torchjd.MGDAWeighting()(table))


def test_a_rule_of_ones_own_is_used_by_name():
    @register_agreement_rule("test_loudest")
    class Loudest(AgreementRule):
        def __call__(self, gram):
            return (gram.diagonal() == gram.diagonal().max()).to(gram.dtype)

    each = {"w": torch.tensor([[1.0], [3.0], [-2.0]])}
    assert task_weights(each, rule="test_loudest").tolist() == [0, 1, 0]
    assert task_weights(each, rule=Loudest()).tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: task_weights({"w": torch.ones(1, 2)}), "compares tasks with each other, and there is one"),
        (lambda: task_weights(updates(), rule="agrement"), "Did you mean 'agreement'"),
        (lambda: task_weights(updates(), rule=3), "must be an AgreementRule, or one of agreement"),
        (lambda: task_weights(updates(), rule="damped(x)"), "'x' is no number"),
        (lambda: task_weights(updates(), rule="damped(0)"), "strength=0.0 must be above 0"),
        (lambda: task_weights(updates(), rule="uniform(1)"), "uniform has no number"),
        (lambda: task_weights(updates(), normalise="sum"), "normalise='sum' is unknown"),
        (lambda: task_weights({}), "expected tensors [N, ...]"),
        (lambda: task_weights({"w": torch.ones(3, 2), "b": torch.ones(2)}), "a row for each of as many tasks"),
        (lambda: task_weights([]), "expected {name: [N, ...]}"),
        (lambda: task_weights([{"w": torch.ones(2)}, {"b": torch.ones(2)}]), "The update of task 1 has another w"),
        (lambda: task_weights([[torch.ones(2)], [torch.ones(3)]]), "The update of task 1 has another 0"),
        (lambda: task_weights([1.0, 2.0]), "The update of task 0 is 1.0; expected its tensors"),
        (lambda: task_weights([[1.0], [2.0]]), "The update of task 0 has 1.0 for 0; expected tensors"),
        (lambda: task_weights([[], []]), "The update of task 0 is empty"),
        (lambda: task_weights({"w": torch.ones(3, 2, dtype=torch.int64)}), "expected tensors of real numbers"),
        (lambda: combine(updates(), "x"), "expected 5 numbers, one a task"),
        (lambda: combine(updates(), None), "expected 5 numbers, one a task"),
        (lambda: combine(updates(), torch.ones(4)), "expected 5 finite numbers"),
        (lambda: combine(updates(), torch.full((5,), math.nan)), "expected 5 finite numbers"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(call, message):
    with pytest.raises((ConfigurationError, UnknownNameError)) as caught:
        call()
    assert message in str(caught.value)


def test_one_task_is_uniform_and_torchjds_other_weightings_say_what_they_need():
    assert task_weights({"w": torch.ones(1, 2)}, rule="uniform").tolist() == [1]
    pytest.importorskip("torchjd")
    with pytest.raises(ConfigurationError, match="TorchJD has no weighting 'MGD'"):
        build_agreement_rule("torchjd:MGD")
    with pytest.raises(ConfigurationError, match=r"cannot be used: .*alpha"):
        build_agreement_rule("torchjd:FairGrad")
