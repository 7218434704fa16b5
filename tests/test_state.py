"""State as data: what goes in comes out, and nothing else can be in it."""

import io
import threading
from collections import deque
from typing import NamedTuple

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from gar_env.data import Batch
from gar_env.errors import CheckpointError, DuplicateNameError
from gar_env.state import NotDataError, as_data, attributes, from_data, plain, set_attributes

NUMBERS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary())
VALUES = st.recursive(
    NUMBERS,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.dictionaries(st.one_of(st.text(), st.integers(), st.binary()), inner),
        st.lists(inner).map(lambda entries: deque(entries, maxlen=len(entries) + 1)),
    ),
    max_leaves=12,
)


def through_a_file(value):
    buffer = io.BytesIO()
    torch.save(as_data(value), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@given(VALUES)
@settings(max_examples=200, deadline=None)
def test_plain_values_come_back_as_they_were(value):
    found = from_data(through_a_file(value))
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.uint8])
def test_tensors_come_back_without_what_they_are_views_of(dtype):
    whole = torch.arange(12).view(3, 4).to(dtype)
    found = from_data(through_a_file(whole[:, 1]))
    assert torch.equal(found, whole[:, 1])
    assert found.untyped_storage().nbytes() == 3 * whole.element_size()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.bool_, np.uint8])
def test_arrays_and_their_scalars_come_back(dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    found = from_data(through_a_file({"array": array, "one": array[1, 2]}))
    assert np.array_equal(found["array"], array)
    assert found["array"].dtype == dtype
    assert type(found["one"]) is type(array[1, 2])


def test_generators_and_spaces_go_on_where_they_were_and_stay_the_same_objects():
    ours, theirs, space = torch.Generator().manual_seed(3), np.random.default_rng(3), gymnasium.spaces.Discrete(1000)
    space.seed(3)
    saved = through_a_file([ours, theirs, space])
    expected = [torch.rand(2, generator=ours), theirs.random(2), [space.sample() for _ in range(5)]]
    there = [ours, theirs, space]
    found = from_data(saved, there)
    assert all(one is other for one, other in zip(found, there, strict=True))
    assert torch.equal(torch.rand(2, generator=ours), expected[0])
    assert np.array_equal(theirs.random(2), expected[1])
    assert [space.sample() for _ in range(5)] == expected[2]
    fresh = from_data(saved[:2])
    assert torch.equal(torch.rand(2, generator=fresh[0]), expected[0])


def test_registered_classes_come_back_and_others_cannot_be_named():
    batch = Batch(torch.ones(2, 3), torch.zeros(2, dtype=torch.int64))
    found = from_data(through_a_file(batch))
    assert type(found) is Batch
    assert torch.equal(found.inputs, batch.inputs)
    forged = {**as_data(batch), "class": "Popen"}
    with pytest.raises(CheckpointError, match="No class 'Popen' can be read from a file"):
        from_data(forged)


def test_two_classes_of_one_name_are_refused():
    with pytest.raises(DuplicateNameError, match=r"Batch is gar_env\.data\.batch's already"):

        @plain
        class Batch(NamedTuple):
            x: int


@pytest.mark.parametrize("value", [len, object(), threading.Lock(), {1, 2}, np.array(["a"]), torch.nn.Linear])
def test_what_is_no_data_is_refused(value):
    with pytest.raises(NotDataError, match=r"no data|no array of numbers"):
        as_data([value])


@pytest.mark.parametrize(
    "damaged",
    [{}, {"is": "magic"}, {"is": ["dict"]}, {"is": "dict"}, {"is": "dict", "items": 3}, {"is": "array", "value": 3},
     {"is": "generator", "state": torch.zeros(3)}, {"is": "numpy_generator", "state": {"is": "dict", "items": []}},
     {"is": "torch", "kind": "dtype", "name": "load"}, {"is": "object", "class": "Batch", "fields": 3},
     {"is": "state", "value": None}, {"is": "space", "draws": None}],
    ids=str,
)  # fmt: skip
def test_damaged_data_are_one_sentence(damaged):
    with pytest.raises(CheckpointError):
        from_data(damaged)


class Thing:
    def __init__(self):
        self.network, self.helper, self.count = nn.Linear(2, 2), len, 0


def test_attributes_are_taken_and_given_back():
    thing, other = Thing(), Thing()
    made = tuple(vars(thing))
    thing.count, thing.seen = 3, torch.arange(3)
    state = through_a_file(attributes(thing, made=made))
    set_attributes(other, from_data(state))
    assert (other.count, other.seen.tolist()) == (3, [0, 1, 2])
    assert torch.equal(other.network.weight, thing.network.weight)
    assert other.network is not thing.network
    thing.late = len
    with pytest.raises(NotDataError, match=r"Thing.late cannot be saved: .* is no data. Make it when the object is"):
        attributes(thing, made=made)
