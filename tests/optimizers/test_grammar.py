import math
import re

import pytest
import torch

from gar_env.errors import ConfigurationError
from gar_env.optimizers import Grammar, Rule


def test_how_many_strings_and_tokens_there_are():
    assert math.prod(Grammar(1).sizes) == 249_696
    assert math.prod(Grammar(2).sizes) == pytest.approx(7.0e10, rel=0.01)
    assert [len(Grammar(2, decays=decays).vocabulary) for decays in (False, True)] == [36, 40]


def test_every_token_stands_where_its_kind_may():
    grammar = Grammar(3)
    for place in range(grammar.length):
        names = [grammar.vocabulary[token] for token in grammar.choices(place)]
        assert grammar.kind(place) in ("operand", "unary", "binary")
        assert ("g" in names) == (grammar.kind(place) == "operand")
        assert ("group2" in names) == (place in (10, 11))
    assert grammar.choices(0).stop == 17  # no group is there yet


def test_a_short_rule_is_filled_up_in_front():
    grammar = Grammar(3)
    tokens = Rule("PowerSign").encode(grammar)
    assert str(Grammar(1).decode(tokens[:2] + [t - 2 for t in tokens[2:5]])) == "left(1, 1)"
    assert grammar.decode(tokens) == Rule("PowerSign")


@pytest.mark.parametrize(
    ("formula", "groups", "message"),
    [
        (
            "clip(g, 3e-4)",
            1,
            "clip(x, 3e-4) is not in the grammar, which has clip(x, 1e-5), clip(x, 1e-4), clip(x, 1e-3)",
        ),
        ("3 * g", 1, "3 is not in the grammar. Its operands: "),
        ("0.5w", 1, "0.5w is not in the grammar"),
        ("linear_decay * g", 1, "Decays: decays=True"),
        ("g * exp(sign(g) * sign(m))", 1, "needs 2 groups, and the grammar has 1. Use groups=2"),
        ("exp(exp(g))", 1, "needs 2 groups"),
    ],
)
def test_what_is_not_in_the_grammar_is_named(formula, groups, message):
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        Rule(formula).encode(Grammar(groups))


def test_strings_that_are_none_are_refused():
    grammar = Grammar(1)
    with pytest.raises(ConfigurationError, match="There are 4 tokens; a string of 1 groups has 5"):
        grammar.decode([0, 0, 17, 17])
    with pytest.raises(
        ConfigurationError, match=re.escape("Token 17 (x) stands at place 0; expected an operand, 0 to 16: Adam")
    ):
        grammar.decode([17, 0, 17, 17, 29])
    with pytest.raises(ConfigurationError, match=re.escape("Token 99 (no token) stands at place 1")):
        grammar.decode([0, 99, 17, 17, 29])
    for groups in (0, 11, 1.5, True):
        with pytest.raises(ConfigurationError, match=r"groups=.* must be a whole number from 1 to 10"):
            Grammar(groups)


def test_a_result_is_read_by_later_groups():
    grammar = Grammar(2)
    words = grammar.vocabulary
    string = ["g", "m", "sign(x)", "x", "mul", "group1", "g", "exp(x)", "x", "add"]
    assert str(grammar.decode([words.index(word) for word in string])) == "exp(sign(g) * m) + g"


def test_random_strings_repeat_and_use_all_tokens():
    grammar = Grammar(1)
    drawn = [grammar.random(torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    generator = torch.Generator().manual_seed(0)
    used = {token for _ in range(600) for token in grammar.random(generator)}
    assert used == set(range(len(grammar.vocabulary)))
