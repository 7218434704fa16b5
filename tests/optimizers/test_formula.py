import re

import pytest
import torch

from gar_env.errors import ConfigurationError, FormulaError, GarEnvError
from gar_env.optimizers import (
    NAMED,
    TABLE,
    Grammar,
    Rule,
    build_optimizer_rule,
    register_binary,
    register_operand,
    register_unary,
)
from gar_env.optimizers.canonical import canonical
from gar_env.optimizers.formula import GAMMA, HAT, Call, Leaf, read, write
from gar_env.optimizers.functions import UNARY
from gar_env.optimizers.key import values
from random_rules import random_rules, same

GRAMMARS = [Grammar(1), Grammar(2), Grammar(3, decays=True)]


@pytest.mark.parametrize("grammar", GRAMMARS, ids=str)
def test_what_is_written_is_read_back_as_the_same_tree(grammar):
    for rule in random_rules(500, grammar):
        assert read(str(rule)) == rule.tree


@pytest.mark.parametrize("grammar", GRAMMARS, ids=str)
def test_a_rule_its_canonical_form_and_its_string_compute_the_same_numbers(grammar):
    for rule in random_rules(300, grammar):
        again = grammar.decode(rule.encode(grammar))
        assert again == rule
        assert rule.canonical.canonical.tree == rule.canonical.tree
        assert again.key == rule.key == rule.canonical.key
        assert same(values(again), values(rule))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("g + m", "m + g"),
        ("--g", "g"),
        ("-g * -m", "g * m"),
        ("-(g - m)", "m - g"),
        ("sign(sign(g))", "sign(g)"),
        ("log(-g)", "log(g)"),
        ("clip(-g, 1e-3)", "-clip(g, 0.001)"),
        ("(-g)^m", "g^m"),
        ("g - -m", "m + g"),
        ("left(g, m)", "g"),
        ("-g / m", "-(g / m)"),
        ("drop(-g, 0.1)", "-drop(g, 0.1)"),
    ],
)
def test_signs_and_sides_make_no_other_rule(one, other):
    assert Rule(one) == Rule(other)
    assert hash(Rule(one)) == hash(Rule(other))


@pytest.mark.parametrize(
    ("one", "other"), [("g - m", "m - g"), ("g / -m", "-g / m"), ("g ^ m", "m ^ g"), ("exp(-g)", "-exp(g)")]
)
def test_what_is_another_function_stays_one(one, other):
    assert Rule(one) != Rule(other)
    assert Rule(one).key != Rule(other).key


@pytest.mark.parametrize(
    ("one", "other"), [("g + g", "2 * g"), ("exp(log(1))", "1 / 1"), ("g * g", "g2"), ("g + m - m", "g")]
)
def test_identities_share_a_key(one, other):
    assert Rule(one) != Rule(other)
    assert Rule(one).key == Rule(other).key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("sqrt(1e-3w) * sign(g)", "sqrt(1e-3w) / sign(sign(g))"),  # at gradients that are 0
        ("drop(1, 0.3) * sign(g)", "drop(1, 0.3) / sign(g)"),
        ("clip(g, 1e-5)", "1e-5 * sign(g)"),  # at small ones
        ("clip(1e-1w, 1e-3) * sign(g)", "clip(sign(g), 1e-3) / sign(1e-4w)"),
    ],
)
def test_functions_that_differ_at_zeros_or_small_gradients_have_keys_of_their_own(one, other):
    assert Rule(one).key != Rule(other).key


def test_a_positive_factor_has_a_key_of_its_own():
    assert Rule("2 * g").key != Rule("g").key


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("g * expp(m)", 5, "no function is called 'expp'. Did you mean 'exp'?"),
        ("g +", 4, "it ends where an operand should be"),
        ("", 1, "it ends where an operand should be"),
        ("(g", 3, "expected ')', and it ends"),
        ("g * * m", 5, "'*' is no operand"),
        ("g m", 3, "'m' is too much"),
        ("grad", 1, "no operand is called 'grad'"),
        ("clip(g)", 7, "expected ',', found ')'"),
        ("clip(g, m)", 9, "clip takes a number after its operand, such as 1e-5"),
        ("drop(g, 1.5)", 9, "1.5 must be above 0 and below 1"),
        ("clip(g, 0)", 9, "0 must be above 0"),
        ("1e999 * g", 1, "1e999 is too large"),
        ("g ? m", 3, "'?' is too much"),
        ("exp(g, m)", 6, "expected ')', found ','"),
        ("left(g)", 7, "expected ',', found ')'"),
        ("(" * 150 + "g" + ")" * 150, 101, "nested more than 100 deep"),
        ("+".join(["g"] * 900), 401, "more than 400 numbers, names and symbols"),
        ("-" * 200 + "g", 101, "nested more than 100 deep"),
    ],
)
def test_a_formula_that_cannot_be_read_shows_the_column(text, column, message):
    with pytest.raises(FormulaError, match=re.escape(f"column {column}: ") + ".*" + re.escape(message)) as found:
        Rule(text)
    *_, line, mark = str(found.value).split("\n")
    assert len(mark) <= len(line) + 1 + 2


def test_symbols_of_the_paper_are_read_too():
    assert Rule(f"m̂ * exp(v̂) + {GAMMA}{HAT} - g² * g³").tree == Rule("m * exp(v) + gamma - g2 * g3").tree
    assert Rule("2 ^ -g ^ m").tree == Rule("2 ^ (-(g ^ m))").tree
    assert write(read("0.001 * w + 1e-3w + .5")) == "1e-3 * 1w + 1e-3w + 0.5"


@pytest.mark.parametrize("name", [*NAMED, *TABLE])
def test_published_rules_fit_three_groups(name):
    grammar = Grammar(3)
    rule = build_optimizer_rule(name)
    assert grammar.decode(rule.encode(grammar)) == rule


def test_how_many_groups_published_rules_need():
    needed = {}
    for name in (*TABLE, "AddSign"):
        for groups in (1, 2, 3):
            try:
                build_optimizer_rule(name).encode(Grammar(groups))
            except ConfigurationError:
                continue
            needed.setdefault(groups, []).append(name)
            break
    assert {groups: len(names) for groups, names in needed.items()} == {1: 15, 2: 4, 3: 2}
    assert needed[3] == ["Optimizer_1", "AddSign"]


def test_a_rule_is_built_from_a_name_a_formula_or_itself():
    rule = build_optimizer_rule("PowerSign")
    assert build_optimizer_rule(rule) is rule
    assert repr(rule) == "Rule('g * exp(sign(g) * sign(m))')"
    with pytest.raises(ConfigurationError, match=r"No rule is called 'PowerSine'. Did you mean 'PowerSign'?"):
        build_optimizer_rule("PowerSine")
    with pytest.raises(ConfigurationError, match="formula=3 must be text, or a tree"):
        Rule(3)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (Call("exp", (Leaf("g"), Leaf("m"))), "exp takes 1 inputs"),
        (Call("add", (Leaf("g"),)), "add takes 2 inputs"),
        (Call("clip", (Leaf("g"),)), "clip takes 1 inputs and a constant"),
        (Leaf("number"), "is no operand"),
        (Leaf("number", -2.0), "must be finite and at least 0"),
        (Leaf("w", float("nan")), "must be finite and at least 0"),
        (Leaf("gg"), "No operand is called 'gg'"),
        (Call("expp", (Leaf("g"),)), "No binary function is called 'expp'"),
    ],
)
def test_a_tree_that_is_none_is_refused(tree, message):
    with pytest.raises(GarEnvError, match=re.escape(message)):
        Rule(tree)


def test_ones_own_function_is_read_written_and_offered_by_grammars():
    register_unary("test_tanh", odd=True)(torch.tanh)
    try:
        rule = Rule("test_tanh(-g) * m")
        assert str(rule.canonical) == "-(m * test_tanh(g))"
        grammar = Grammar(1)
        assert grammar.decode(rule.encode(grammar)) == rule
    finally:
        UNARY._objects.pop("test_tanh")


@pytest.mark.parametrize(
    ("register", "message"),
    [
        (lambda: register_unary("test_part", constants=(-1.0,))(torch.exp), "constants=(-1.0,) must be above 0"),
        (lambda: register_unary("test_part", constants=(2.0,), random=True)(torch.exp), "and below 1"),
        (lambda: register_binary("test_part", symbol="+")(torch.add), "symbol='+' is another function's"),
        (lambda: register_binary("test_part", symbol="%")(torch.add), "symbol='%' is another function's, or none of"),
        (lambda: register_operand("test_part", memory=("mm",))(lambda at, _: at.g), "has 'mm'; running means are m, v"),
        (lambda: register_operand("2g")(lambda at, _: at.g), "'2g' is no name for a formula"),
    ],
)
def test_parts_that_formulas_could_not_hold_are_refused(register, message):
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        register()


def test_equal_parts_are_one_and_draw_once():
    rule = Rule("drop(g, 0.5) - drop(g, 0.5)")
    assert [step.draw for step in rule.steps] == [-1, 0, -1]
    assert not values(rule).any()
    assert canonical(read("noise + noise")) == read("noise + noise")


def test_a_formula_with_many_draws_has_a_key():
    """More than the probe has at hand; each draw is one of its own."""
    one, other = (Rule("drop(" * n + "g" + ", 0.01)" * n) for n in (70, 71))
    assert max(step.draw for step in other.steps) == 70
    assert one.key != other.key
    assert one.key == Rule(str(one)).key
