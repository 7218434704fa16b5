"""Tasks of a meta-batch: waves, classes of any data, and ways to spoil them."""

import math

import numpy as np
import pytest
import torch

from gar_env.data import Dataset, load_dataset
from gar_env.data.tasks import TASKS, ClassTasks, MamlSineTasks, SineTasks, load_tasks
from gar_env.data.tasks.corruptions import parse_task_shares, spoil
from gar_env.errors import ConfigurationError, UnknownNameError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def classes(train, test, per_class=6, shape=(2,)):
    """Each example is its class and its number."""

    def part(labels):
        y = torch.tensor([label for label in labels for _ in range(per_class)])
        numbers = torch.arange(len(y)) % per_class
        x = torch.stack([y, numbers], 1).float()
        return x.expand(len(y), *shape) if shape != (2,) else x, y

    names = tuple(map(str, range(1 + max([*train, *test]))))
    return Dataset("numbered", *part(train), *part(test), names)


@pytest.mark.parametrize("source", [SineTasks(10), MamlSineTasks(10)], ids=["sine", "sine_maml"])
def test_each_task_is_one_wave(source):
    tasks = source.draw(200, generator(), queries=20)
    assert tasks.inputs.shape == (200, 10, 1)
    assert tasks.query_inputs.shape == (200, 20, 1)
    x = torch.cat([tasks.inputs, tasks.query_inputs], 1)[..., 0].double()
    y = torch.cat([tasks.targets, tasks.query_targets], 1)[..., 0].double()
    assert float(x.abs().max()) <= 5
    amplitudes = []
    for one, values in zip(x, y, strict=True):  # a sin(x + b) = a cos(b) sin(x) + a sin(b) cos(x)
        design = torch.stack([one.sin(), one.cos()], 1)
        found = torch.linalg.lstsq(design, values[:, None])
        torch.testing.assert_close((design @ found.solution)[:, 0], values, rtol=1e-4, atol=1e-4)
        amplitudes.append(float(found.solution.norm()))
    assert 0.1 <= min(amplitudes) < 0.3
    assert 4.8 < max(amplitudes) <= 5.0001


def test_support_and_queries_of_a_wave_are_different_points_as_far_as_there_are_any():
    tasks = SineTasks(10).draw(20, generator(), queries=40)
    for row in range(20):
        assert len(torch.cat([tasks.inputs[row], tasks.query_inputs[row]]).unique()) == 50
    whole = SineTasks(10).draw(3, generator(), part="test")
    torch.testing.assert_close(whole.query_inputs[1, :, 0], torch.linspace(-5, 5, 50))


def test_a_task_has_its_classes_numbered_anew_and_no_example_twice():
    source = ClassTasks(classes(range(6), range(6, 10)), ways=3, shots=2, queries=2)
    seen = set()
    for part, known in (("train", set(range(6))), ("test", set(range(6, 10)))):
        tasks = source.draw(50, generator(1), part=part)
        assert tasks.targets.tolist() == [[0, 0, 1, 1, 2, 2]] * 50
        assert tasks.query_targets.tolist() == [[0, 0, 1, 1, 2, 2]] * 50
        for row in range(50):
            support, query = (x[row].round().long().tolist() for x in (tasks.inputs, tasks.query_inputs))
            own = [support[2 * way][0] for way in range(3)]
            assert len(set(own)) == 3
            assert set(own) <= known
            assert [one[0] for one in support] == [one[0] for one in query] == [label for label in own for _ in (0, 1)]
            assert len({tuple(one) for one in support + query}) == 12
            seen.add(tuple(own))
    assert len(seen) > 50


def test_examples_of_small_classes_are_drawn_evenly():
    x, y = torch.arange(9.0)[:, None], torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1])
    data = Dataset("uneven", x, y, x + 100, y + 2, tuple("abcd"))
    source = ClassTasks(data, ways=2, shots=1, queries=1)
    tasks = source.draw(4000, generator())
    counts = torch.bincount(tasks.inputs.round().long().flatten(), minlength=9) / 4000
    np.testing.assert_allclose(counts[:6], 1 / 6, atol=0.03)
    np.testing.assert_allclose(counts[6:], 1 / 3, atol=0.03)


def test_classes_in_both_parts_are_split_the_same_way_for_every_seed():
    both = classes(range(10), range(10))
    sources = [ClassTasks(both, ways=2) for _ in range(2)]
    assert [source.classes("test") for source in sources] == [3, 3]
    found = []
    for source in sources:
        tasks = [source.draw(300, generator(3), part=part) for part in ("train", "test")]
        found.append([set(one.inputs[..., 0].round().long().flatten().tolist()) for one in tasks])
    assert found[0] == found[1]
    train, test = found[0]
    assert not train & test
    assert len(train | test) == 10


def test_turned_images_are_other_classes():
    source = ClassTasks(load_dataset("digits"), ways=5, shots=1, queries=1, rotations=True)
    plain = ClassTasks(load_dataset("digits"), ways=2, shots=1, queries=1)
    assert source.classes("train") == 4 * plain.classes("train")
    images = source.normalise(source.x[torch.cat(source._members["train"])])
    turned = {tuple(torch.rot90(x, k, (1, 2)).flatten().tolist()): k for x in images for k in range(4)}
    tasks = source.draw(40, generator())
    turns = [[turned[tuple(x.flatten().tolist())] for x in own] for own in tasks.inputs]
    again = [[turned[tuple(x.flatten().tolist())] for x in own] for own in tasks.query_inputs]
    assert turns == again  # of a class, all examples are turned alike
    assert {turn for own in turns for turn in own} == {0, 1, 2, 3}


def test_tasks_are_spoiled_with_their_chance_and_the_others_stay_as_they_are():
    source = SineTasks(5)
    tasks = source.draw(2000, generator(), queries=5)
    spoiled = spoil(tasks, parse_task_shares("shuffled_targets(0.3), noise(0.1)"), 1, generator(1))
    assert float(spoiled.corrupted.double().mean()) == pytest.approx(0.4, abs=0.04)
    clean = ~spoiled.corrupted
    assert torch.equal(spoiled.targets[clean], tasks.targets[clean])
    assert torch.equal(spoiled.inputs, tasks.inputs)
    values, before = (torch.cat([one.targets, one.query_targets], 1)[..., 0] for one in (spoiled, tasks))
    shuffled = spoiled.corrupted & (values.sort(1).values == before.sort(1).values).all(1)
    assert float(shuffled.double().mean()) == pytest.approx(0.3, abs=0.04)
    noisy = values[spoiled.corrupted & ~shuffled]
    assert float(noisy.std()) == pytest.approx(6, rel=0.1)
    assert not torch.equal(values[shuffled], before[shuffled])


def test_random_labels_are_labels():
    source = ClassTasks(classes(range(6), range(6, 10)), ways=3, shots=2, queries=2)
    tasks = source.draw(300, generator())
    spoiled = spoil(tasks, [("random_labels", 1.0)], 3, generator(1))
    counts = torch.bincount(spoiled.targets.flatten(), minlength=3) / spoiled.targets.numel()
    np.testing.assert_allclose(counts, 1 / 3, atol=0.05)
    assert spoiled.corrupted.all()
    assert spoiled.targets.dtype == torch.int64


def test_sources_go_by_name_and_anything_with_labels_is_one(tmp_path):
    assert {"sine", "sine_maml"} <= set(TASKS)
    path = tmp_path / "mine.npz"
    x = np.random.default_rng(0).integers(0, 255, (60, 8, 8), dtype=np.uint8)
    y = np.repeat(np.arange(10), 6)
    np.savez(path, x_train=x[:36], y_train=y[:36], x_test=x[36:], y_test=y[36:])
    source = load_tasks(str(path), shots=2, ways=4, queries=3)
    assert (source.classes("train"), source.classes("test"), source.input_shape) == (6, 4, (1, 8, 8))
    assert load_tasks(source, shots=9) is source


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load_tasks("sin", shots=5), "Did you mean 'sine'"),
        (lambda: load_tasks(3, shots=5), "tasks=3 must be a name, a path"),
        (lambda: SineTasks(51), "shots=51 must be from 1 to 50"),
        (lambda: SineTasks(10).draw(2, generator(), queries=51), "queries=51 must be from 1 to 50"),
        (lambda: SineTasks(10).draw(2, generator(), queries=0), "queries=0 must be a whole number"),
        (lambda: MamlSineTasks(10).draw(2, generator(), queries=-1), "queries=-1 must be a whole number"),
        (lambda: SineTasks(10).draw(2, generator(), part="val"), "part='val' is unknown"),
        (lambda: load_tasks("sine", shots=5, rotations=True), "rotations=True is of images"),
        (lambda: ClassTasks(classes(range(6), range(6, 10)), ways=5), "has 4 classes to test on, fewer than ways=5"),
        (lambda: ClassTasks(classes(range(6), range(6, 10)), ways=1), "ways=1 must be a whole number, at least 2"),
        (lambda: ClassTasks(classes(range(6), range(6, 10)), ways=2, shots=5, queries=2), "has 6 examples, fewer than"),
        (lambda: ClassTasks(classes(range(6), range(6, 10)), ways=2, rotations=True), "turns square images"),
        (
            lambda: ClassTasks(classes(range(6), range(4, 10)), ways=2),
            "has 2 classes in both its training and its test",
        ),
        (lambda: ClassTasks(waves(), ways=2), "has no labels, and tasks are made of classes"),
        (lambda: parse_task_shares("shuffle(0.3)"), "Did you mean 'shuffled_targets'"),
        (lambda: parse_task_shares("noise(0.6), shuffled_targets(0.6)"), "spoils more than all"),
        (lambda: spoil(labels(), [("noise", 1.0)], 3, generator()), "Use random_labels"),
        (lambda: spoil(SineTasks().draw(2, generator()), [("random_labels", 1.0)], 1, generator()), "Use shuffled"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(call, message):
    with pytest.raises((ConfigurationError, UnknownNameError)) as caught:
        call()
    assert message in str(caught.value)


def waves():
    x = torch.randn(8, 1)
    return Dataset("wave", x, x.sin(), x, x.sin())


def labels():
    return ClassTasks(classes(range(6), range(6, 10)), ways=3).draw(2, generator())


def test_a_phase_is_in_its_range():
    tasks = MamlSineTasks(10).draw(500, generator(2), queries=10)
    x, y = tasks.inputs[..., 0].double(), tasks.targets[..., 0].double()
    design = torch.stack([x.sin(), x.cos()], 2)
    a, b = torch.linalg.lstsq(design, y[..., None]).solution[..., 0].unbind(1)
    phases = torch.atan2(-b, a)  # a sin(x - p) = a cos(p) sin(x) - a sin(p) cos(x)
    assert float(phases.min()) >= -1e-3
    assert float(phases.max()) <= math.pi + 1e-3
