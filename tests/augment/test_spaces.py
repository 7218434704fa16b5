"""Search spaces: what the strengths mean, and what is refused."""

import re

import pytest

from gar_env.augment import OPERATIONS, SPACES, Choice, SearchSpace, register_space
from gar_env.errors import ConfigurationError, DuplicateNameError, UnknownNameError


def test_spaces_have_the_published_number_of_operations():
    assert {name: len(SPACES[name]) for name in SPACES} == {"wl": 19, "ra": 14, "ra-translate": 14, "ta-wide": 14}
    assert set(SPACES["wl"].names) - set(SPACES["ta-wide"].names) == {"blur", "invert", "flip_lr", "flip_ud", "cutout"}


@pytest.mark.parametrize(
    ("space", "operation", "at_0", "at_7", "at_30"),
    [
        ("wl", "rotate", 0, 31, 135),
        ("ra", "rotate", 0, 7, 30),
        ("wl", "solarize", 256, 197, 0),
        ("wl", "color", 0.01, 0.01 + 7 * 1.99 / 30, 2.0),
        ("ra", "brightness", 0.1, 0.1 + 7 * 1.8 / 30, 1.9),
        ("wl", "posterize", 8, 7, 2),
        ("ra", "posterize", 8, 8, 4),
        ("wl", "shear_x", 0, 7 * 0.99 / 30, 0.99),
        ("wl", "translate_y", 0, 7, 32),
        ("ra", "translate_y", 0, 2, 10),
        ("ra-translate", "translate_y", 0, 3, 14),
        ("wl", "cutout", 0, 4, 19),
    ],
)
def test_values_are_those_of_the_papers_table_3(space, operation, at_0, at_7, at_30):
    values = [SPACES[space].value(operation, k) for k in (0, 7, 30)]
    assert values == pytest.approx([at_0, at_7, at_30], abs=1e-12)


@pytest.mark.parametrize(
    ("space", "operation", "noops"),
    [
        ("wl", "identity", range(31)),
        ("wl", "rotate", [0]),
        ("wl", "solarize", [0]),
        ("wl", "posterize", range(5)),
        ("ra", "posterize", range(8)),
        ("wl", "cutout", [0, 1]),
        ("wl", "color", []),
        ("ra", "color", [15]),
        ("ra", "translate_x", [0, 1, 2]),
        ("wl", "equalize", []),
        ("wl", "flip_lr", []),
    ],
)
def test_strengths_that_change_nothing_are_known(space, operation, noops):
    assert [k for k in range(31) if SPACES[space].is_noop(operation, k)] == list(noops)


def test_a_strength_is_no_noop_if_its_mirror_image_changes_something():
    assert Choice("brightness", span=30).is_noop(1)
    assert not Choice("brightness", span=30, signed=True).is_noop(1)  # a factor of -1 is no identity


def test_a_sign_turns_only_signed_values_around():
    assert SPACES["wl"].value("rotate", 10, negative=True) == -45
    assert SPACES["wl"].value("color", 30, negative=True) == 2.0
    assert SPACES["wl"].describe("translate_x", 30, negative=True) == "translate_x -32 pixels"
    assert SPACES["wl"].describe("equalize", 3) == "equalize"


@pytest.mark.parametrize("name", list(SPACES))
def test_json_round_trip(name):
    assert SearchSpace.from_json(SPACES[name].to_json()) == SPACES[name]


def test_every_operation_of_the_paper_is_registered_with_a_unit_where_it_has_a_strength():
    assert set(SPACES["wl"].names) <= set(OPERATIONS)
    for choice in SPACES["wl"].choices:
        assert (choice.op.unit is not None) == (choice.span != 0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: SPACES["wl"].subset([]), ConfigurationError, "The search space 'wl[]' is empty"),
        (lambda: SPACES["wl"].subset(["rotat"]), UnknownNameError, "no operation 'rotat'. Did you mean 'rotate'?"),
        (lambda: SPACES["wl"].subset(["blur", "blur"]), ConfigurationError, "has blur more than once"),
        (lambda: SPACES["ra"].value("blur", 3), UnknownNameError, "The search space 'ra' has no operation 'blur'"),
        (lambda: SPACES["wl"].value("blur", 31), ConfigurationError, "strength=31 must be a whole number in 0..30"),
        (lambda: SPACES["wl"].is_noop("rotate", -1), ConfigurationError, "strength=-1 must be a whole number in 0..30"),
        (lambda: SPACES["wl"].is_noop("rotate", 1.5), ConfigurationError, "strength=1.5 must be a whole number"),
        (lambda: Choice(3), ConfigurationError, "operation=3 must be the name of an operation"),
        (lambda: SearchSpace("m", ("rotate",)), ConfigurationError, "choices has 'rotate'; expected Choice('name'"),
        (
            lambda: SearchSpace.from_json('{"name": null, "choices": [{"operation": "blur"}]}'),
            ConfigurationError,
            "name=None must be what the search space is called",
        ),
        (lambda: register_space(SPACES["wl"].subset(["blur"])), ConfigurationError, "name='wl[blur]' means something"),
        (lambda: Choice("rotate", span="30"), ConfigurationError, "span='30' of rotate must be a finite number"),
        (lambda: Choice("rotate", span=float("nan")), ConfigurationError, "span=nan of rotate must be a finite number"),
        (lambda: Choice("rotate", signed="no"), ConfigurationError, "signed='no' of rotate must be True or False"),
        (lambda: Choice("translate_x", span=10), ConfigurationError, "translate_x takes whole pixels, but goes up by"),
        (
            lambda: Choice("posterize", start=9, span=-4, whole=True),
            ConfigurationError,
            "posterize goes from 5 to 9 bits; there are 0 to 8. Change start or span",
        ),
        (
            lambda: Choice("posterize", start=4, span=2, whole=True, signed=True),
            ConfigurationError,
            "posterize goes from -6 to 6 bits",
        ),
        (lambda: Choice("solarise"), UnknownNameError, "No operation is called 'solarise'. Did you mean 'solarize'?"),
        (lambda: SPACES["wide"], UnknownNameError, "No search space is called 'wide'"),
        (lambda: SearchSpace.from_json("[]"), ConfigurationError, "The text is no search space"),
        (lambda: SearchSpace.from_json("{"), ConfigurationError, "The text is no search space"),
        (
            lambda: SearchSpace.from_json('{"name": "x", "choices": [{"operation": "rotate", "spam": 1}]}'),
            ConfigurationError,
            "unexpected keyword argument 'spam'",
        ),
        (lambda: register_space(SearchSpace("wl", (Choice("blur"),))), DuplicateNameError, "called 'wl' is registered"),
    ],
)
def test_bad_input_is_refused_with_what_to_do(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()
