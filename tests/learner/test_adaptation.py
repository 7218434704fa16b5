"""A network adapted to many tasks at once is the network adapted to each by itself."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from gar_env.data import load_dataset
from gar_env.data.tasks import ClassTasks, SineTasks
from gar_env.errors import ConfigurationError, UnsupportedLayerError
from gar_env.learner.adaptation import AdaptationOptions, Adapter
from gar_env.networks import build_network

SINE = SineTasks(10)


def network_and_tasks(kind, dtype, n=4):
    torch.manual_seed(0)
    if kind == "sine":
        network, source, loss = build_network("tanh-9-8", (1,), 1), SINE, "squared_error"
    else:
        source = ClassTasks(load_dataset("digits"), ways=3, shots=3, queries=2, rotations=True)
        network, loss = build_network("conv4-5-strided", (1, 8, 8), 3), "cross_entropy"
    tasks = source.draw(n, torch.Generator().manual_seed(1), queries=5)
    cast = [part.to(dtype) if part.is_floating_point() else part for part in tasks]
    return network.to(dtype), type(tasks)(*cast), loss


def by_hand(network, tasks, loss, algorithm, steps, size, row):
    """One task, without a task axis: its update, and its meta-gradient."""
    kind = F.mse_loss if loss == "squared_error" else F.cross_entropy
    start = {name: p.detach().clone().requires_grad_() for name, p in network.named_parameters()}
    own = start
    for _ in range(steps):
        value = kind(functional_call(network, own, (tasks.inputs[row],)), tasks.targets[row])
        gradient = torch.autograd.grad(value, list(own.values()), create_graph=algorithm == "maml")
        own = {name: p - size * g for (name, p), g in zip(own.items(), gradient, strict=True)}
        if algorithm != "maml":
            own = {name: p.detach().requires_grad_() for name, p in own.items()}
    update = {name: start[name].detach() - own[name].detach() for name in start}
    if algorithm == "reptile":
        return update, update
    value = kind(functional_call(network, own, (tasks.query_inputs[row],)), tasks.query_targets[row])
    by = start if algorithm == "maml" else own
    return update, dict(zip(own, torch.autograd.grad(value, list(by.values())), strict=True))


def put_together(tensors):
    return torch.cat([g.flatten().double() for g in tensors.values()])


@pytest.mark.parametrize("kind", ["sine", "digits"])
@pytest.mark.parametrize("algorithm", ["fomaml", "maml", "reptile"])
@pytest.mark.parametrize("way", ["layers", "vmap", "one_by_one"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_every_way_adapts_as_one_task_by_itself(kind, algorithm, way, dtype, tolerance):
    network, tasks, loss = network_and_tasks(kind, dtype)
    options = AdaptationOptions(algorithm, inner_steps=3, inner_step_size=0.05, task_way=way)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    adapted = Adapter(network, options, loss).adapt(tasks, torch.Generator().manual_seed(0))
    exact_network, exact_tasks, _ = network_and_tasks(kind, torch.float64)
    for row in range(4):
        one = by_hand(network, tasks, loss, algorithm, 3, 0.05, row)
        exact = by_hand(exact_network, exact_tasks, loss, algorithm, 3, 0.05, row)
        # An update is a difference of parameters, and has their rounding.
        sizes = torch.cat([p.flatten() for p in before.values()]).norm(), torch.zeros(())
        for found, by_itself, expected, size in zip(
            (adapted.updates, adapted.gradients), one, exact, sizes, strict=True
        ):
            whole = float(put_together(expected).norm() + size)
            gap = float((put_together({name: g[row] for name, g in found.items()}) - put_together(expected)).norm())
            own = float((put_together(by_itself) - put_together(expected)).norm())
            # Batch normalisation of so few numbers makes roundings larger, of one task by itself too.
            assert gap <= max(tolerance * whole, 3 * own)
    assert all(torch.equal(network.get_parameter(name), p) for name, p in before.items())


def test_second_order_is_the_derivative_of_the_loss_after_adapting():
    network, tasks, loss = network_and_tasks("sine", torch.float64)
    options = AdaptationOptions("maml", inner_steps=2, inner_step_size=0.05)
    adapted = Adapter(network, options, loss).adapt(tasks, torch.Generator())
    with torch.no_grad():
        p = network[1].weight
        values = []
        for step in (1e-5, -1e-5):
            p[2, 0] += step
            values.append(Adapter(network, options, loss).adapt(tasks, torch.Generator()).after)
            p[2, 0] -= step
    slope = (values[0] - values[1]) / 2e-5
    torch.testing.assert_close(adapted.gradients["1.weight"][:, 2, 0], slope, rtol=1e-5, atol=1e-8)


def test_inner_mini_batches_are_fresh_until_there_are_none():
    tasks = SineTasks(50).draw(3, torch.Generator().manual_seed(0), queries=1)
    adapter = Adapter(nn.Linear(1, 1), AdaptationOptions("reptile", inner_steps=5, inner_batch=10), "squared_error")
    batches = adapter._batches(tasks, torch.Generator().manual_seed(1))
    for row in range(3):
        seen = torch.cat([x[row] for x, _ in batches])
        assert len(seen.unique()) == 50
    again = adapter._batches(tasks, torch.Generator().manual_seed(1), steps=8)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(batches, again[:5], strict=True))
    assert len(torch.cat([x[0] for x, _ in again[5:]]).unique()) == 30


def test_what_a_task_learned_first_and_next_add_up_to_its_update():
    tasks = SineTasks(50).draw(3, torch.Generator().manual_seed(0), queries=1)
    network = build_network("tanh-6", (1,), 1).double()
    tasks = type(tasks)(*(part.double() if part.is_floating_point() else part for part in tasks))
    options = AdaptationOptions("reptile", inner_steps=5, inner_batch=10)
    adapted = Adapter(network, options, "squared_error").adapt(tasks, torch.Generator().manual_seed(0))
    for name, update in adapted.updates.items():
        torch.testing.assert_close(adapted.first[name] + adapted.fresh[name], update)
    short = AdaptationOptions("reptile", inner_steps=2, inner_batch=10)
    two = Adapter(network, short, "squared_error").adapt(tasks, torch.Generator().manual_seed(0))
    for name, first in adapted.first.items():
        torch.testing.assert_close(two.updates[name], first)


def test_one_task_that_is_not_finite_leaves_the_others_alone():
    network, tasks, loss = network_and_tasks("sine", torch.float32)
    options = AdaptationOptions("maml", inner_steps=3)
    clean = Adapter(network, options, loss).adapt(tasks, torch.Generator())
    tasks.targets[1, 0] = float("nan")
    spoiled = Adapter(network, options, loss).adapt(tasks, torch.Generator())
    for name, g in clean.gradients.items():
        assert torch.equal(spoiled.gradients[name][[0, 2, 3]], g[[0, 2, 3]])
        assert not spoiled.gradients[name][1].isfinite().any()


def test_queries_are_judged_together_or_each_with_the_support_set_alone():
    network, tasks, loss = network_and_tasks("digits", torch.float32)
    adapter = Adapter(network, AdaptationOptions(inner_steps=2, inner_step_size=0.1), loss)
    together, _ = adapter.test(tasks, torch.Generator())
    alone, _ = adapter.test(tasks, torch.Generator(), transductive=False)
    assert not torch.allclose(together, alone)
    few = type(tasks)(*tasks[:2], tasks.query_inputs[:, 3:4], tasks.query_targets[:, 3:4], tasks.corrupted)
    one, _ = adapter.test(few, torch.Generator(), transductive=False)
    rest = [
        type(tasks)(*tasks[:2], tasks.query_inputs[:, q : q + 1], tasks.query_targets[:, q : q + 1], tasks.corrupted)
        for q in range(tasks.query_targets.shape[1])
    ]
    each = [adapter.test(own, torch.Generator(), transductive=False)[0] for own in rest]
    torch.testing.assert_close(torch.stack(each).mean(0), alone)
    torch.testing.assert_close(each[3], one)


def test_adam_inside_keeps_its_second_moments_from_one_meta_batch_to_the_next():
    network = nn.Linear(1, 1)
    tasks = SINE.draw(1, torch.Generator().manual_seed(0), queries=5)
    options = AdaptationOptions("reptile", inner_steps=2, inner_step_size=0.01, inner_optimizer="adam")
    adapter = Adapter(network, options, "squared_error")
    twin = nn.Linear(1, 1)
    twin.load_state_dict(network.state_dict())
    optimizer = torch.optim.Adam(twin.parameters(), lr=0.01, betas=(0.0, 0.999))
    for _ in range(3):
        adapted = adapter.adapt(tasks, torch.Generator())
        twin.load_state_dict(network.state_dict())
        for _ in range(2):
            optimizer.zero_grad()
            F.mse_loss(twin(tasks.inputs[0]), tasks.targets[0]).backward()
            optimizer.step()
        expected = network.weight.detach() - twin.weight.detach()
        torch.testing.assert_close(adapted.updates["weight"][0], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)), "keeps running statistics"),
        (lambda: nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.5), nn.Linear(4, 1)), "draws dropout"),
        (
            lambda: nn.Sequential(nn.Unflatten(1, (1, 1)), nn.InstanceNorm1d(1, track_running_stats=True)),
            "keeps running",
        ),
        (lambda: nn.LSTM(1, 2, num_layers=2, dropout=0.5), "draws dropout"),
        (lambda: tied(), "is a parameter that stands under another name too"),
    ],
)
def test_a_network_that_cannot_keep_tasks_apart_is_refused(network, message):
    with pytest.raises(UnsupportedLayerError, match=message):
        Adapter(network(), AdaptationOptions(), "squared_error")


def tied():
    network = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    network[1].weight = network[0].weight
    return network


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "mamml"}, "Did you mean 'maml'"),
        ({"inner_steps": 0}, "inner_steps=0 must be a whole number"),
        ({"inner_step_size": 0.0}, "inner_step_size=0.0 must be above 0"),
        ({"inner_batch": 0}, "inner_batch=0 must be a whole number"),
        ({"algorithm": "maml", "inner_optimizer": "adam"}, "have no derivative where a gradient is 0"),
        ({"task_way": "loop"}, "task_way='loop' is unknown"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ConfigurationError) as caught:
        AdaptationOptions(**options)
    assert message in str(caught.value)


def test_layers_without_rules_run_by_vmap_and_say_so_if_layers_are_asked_for():
    network = nn.Sequential(nn.Linear(1, 4), nn.GroupNorm(2, 4), nn.Linear(4, 1))
    assert Adapter(network, AdaptationOptions(), "squared_error").way == "vmap"
    with pytest.raises(UnsupportedLayerError, match=r"not so for GroupNorm, Sequential"):
        Adapter(network, AdaptationOptions(task_way="layers"), "squared_error")


class Branches(nn.Module):
    """What it does depends on its inputs."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, x):
        return self.layer(x) if float(x.sum()) > 0 else self.layer(-x)


def test_what_vmap_cannot_run_can_be_run_one_by_one():
    tasks = SINE.draw(2, torch.Generator(), queries=3)
    with pytest.raises(UnsupportedLayerError, match=r"Use task_way='one_by_one'"):
        Adapter(Branches(), AdaptationOptions(), "squared_error").adapt(tasks, torch.Generator())
    adapted = Adapter(Branches(), AdaptationOptions(task_way="one_by_one"), "squared_error").adapt(
        tasks, torch.Generator()
    )
    assert adapted.after.isfinite().all()


def test_more_examples_in_a_step_than_there_are_is_refused():
    tasks = SINE.draw(2, torch.Generator(), queries=1)
    adapter = Adapter(nn.Linear(1, 1), AdaptationOptions(inner_batch=11), "squared_error")
    with pytest.raises(ConfigurationError, match="inner_batch=11 is more than the 10 examples"):
        adapter.adapt(tasks, torch.Generator())
