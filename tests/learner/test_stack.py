"""R networks stepped together: each row as if it were alone, whatever the others do."""

from __future__ import annotations

import gc
import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gar_env.checks import check_stacked_layer
from gar_env.errors import CheckpointError, ConfigurationError, GarEnvError, StaleTapeError, UnsupportedLayerError
from gar_env.learner import Learner, LearnerStack, register_stacked_layer
from gar_env.learner.stacked_layers import has_rules
from gar_env.learner.update_rules import RULES, Adam, Momentum, RMSprop, build_rule
from gar_env.networks import build_network

N, CLASSES = 9, 5


def mlp(activation: type[nn.Module] = nn.ReLU, dropout: float = 0.0) -> nn.Module:
    layers = nn.Flatten(), nn.Linear(64, 17), activation(), nn.Dropout(dropout), nn.Linear(17, 13), activation()
    return nn.Sequential(*layers, nn.Linear(13, CLASSES))


def lenet() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 30, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(30), nn.Linear(30, CLASSES, bias=False)),
    )


NETWORKS = {
    **{name: lambda name=name: build_network(name, (1, 8, 8), CLASSES) for name in ("fc", "fc_bn", "cnn_bn", "cnn")},
    "mlp": mlp,
    "mlp of tanh": lambda: mlp(nn.Tanh),
    "mlp of gelu, dropout": lambda: mlp(nn.GELU, 0.3),
    "lenet": lenet,
}


class Attends(nn.Module):
    """Rules for none of it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.attention = nn.Linear(8, 6), nn.MultiheadAttention(6, 2, batch_first=True)
        self.norm, self.last = nn.GroupNorm(2, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x.squeeze(1)))
        h = h + self.attention(h, h, h, need_weights=False)[0]
        return self.last(self.norm(h.mean(1)))


def batches(rows: int, steps: int) -> tuple[Tensor, Tensor]:
    """``[steps, rows, N, 1, 8, 8]`` and labels; a row's are the same whatever ``rows`` is."""
    drawn = []
    for row in range(rows):
        generator = torch.Generator().manual_seed(row)
        x = torch.randn(steps, N, 1, 8, 8, generator=generator)
        drawn.append((x, torch.randint(CLASSES, (steps, N), generator=generator)))
    return torch.stack([x for x, _ in drawn], 1), torch.stack([y for _, y in drawn], 1)


def train(stack: LearnerStack, x: Tensor, y: Tensor, step_sizes: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Losses and predicted changes of every step."""
    seen = []
    for inputs, targets in zip(x, y, strict=True):
        one = stack.run(inputs, targets)
        direction = stack.direction(one.gradient)
        seen.append((one.losses, stack.predicted_changes(one, direction)))
        stack.move(direction, step_sizes)
    return seen


@pytest.mark.parametrize("rule", ["sgd", "nesterov", "rmsprop", "adam"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_row_is_bit_for_bit_the_same_run_alone(name, rule, monkeypatch):
    row_bytes = sum(4 * p.numel() for p in NETWORKS[name]().parameters())
    monkeypatch.setattr("gar_env.learner.stack.BLOCK_BYTES", 17 * row_bytes)  # 17 rows, and 2
    rows, steps = 19, 6
    x, y = batches(rows, steps)
    step_sizes = torch.logspace(-4, -1, rows)
    options: dict[str, Any] = {"rule": rule, "weight_decay": 1e-3, "gradient_clip": 1.0}
    together = LearnerStack(NETWORKS[name], range(rows), **options)
    assert together.way == "layers"
    seen = train(together, x, y, step_sizes)
    for row in (0, 7, 16, 18):
        alone = LearnerStack(NETWORKS[name], [row], **options)
        own = train(alone, x[:, row : row + 1], y[:, row : row + 1], step_sizes[row : row + 1])
        for (losses, changes), (found, predicted) in zip(seen, own, strict=True):
            assert torch.equal(losses[row], found[0])
            assert torch.equal(changes[row], predicted[0])
        for kind in ("parameters", "buffers"):
            for key, value in getattr(together, kind).items():
                assert torch.equal(value[row], getattr(alone, kind)[key][0]), key


@pytest.mark.parametrize("way", ["layers", "vmap"])
@pytest.mark.parametrize("name", [name for name in NETWORKS if "dropout" not in name])
def test_gradients_are_those_of_a_loop_over_the_networks(name, way):
    rows = 6
    x, y = batches(rows, 1)
    stack = LearnerStack(NETWORKS[name], range(rows), way=way)
    networks = [stack.network(row) for row in range(rows)]
    one = stack.run(x[0], y[0])
    for row, network in enumerate(networks):
        learner = Learner(NETWORKS[name], seed=row, num_steps=1)
        for (key, p), (_, q) in zip(network.named_parameters(), learner.network.named_parameters(), strict=True):
            assert torch.equal(p, q), key  # the same seed starts the same network
        losses = F.cross_entropy(network(x[0, row]), y[0, row], reduction="none")
        losses.mean().backward()
        torch.testing.assert_close(one.losses[row], losses.detach(), rtol=1e-5, atol=1e-6)
        for key, p in network.named_parameters():
            torch.testing.assert_close(one.gradient[key][row], p.grad, rtol=1e-4, atol=1e-6)
        for key, b in network.named_buffers():
            torch.testing.assert_close(stack.buffers[key][row], b, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        stack.outputs(x[0, :1])[2], stack.network(2).eval()(x[0, 0]).detach(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("way", ["layers", "vmap"])
@pytest.mark.parametrize("name", ["fc", "cnn", "mlp of tanh", "lenet", "attends"])
def test_predicted_changes_are_each_example_s_gradient_times_the_direction(name, way):
    build = Attends if name == "attends" else NETWORKS[name]
    if name == "attends" and way == "layers":
        pytest.skip("it has no rules")
    rows = 3
    x, y = batches(rows, 1)
    stack = LearnerStack(build, range(rows), way=way)
    one = stack.run(x[0], y[0])
    direction = {key: torch.randn_like(g) for key, g in one.gradient.items()}
    found = stack.predicted_changes(one, direction)
    for row in range(rows):
        network = stack.network(row)
        losses = F.cross_entropy(network(x[0, row]), y[0, row], reduction="none")
        if name == "cnn":  # under batch normalisation layers give shares, whose sum is the derivative's
            along = sum((one.gradient[key][row] * d[row]).sum() for key, d in direction.items())
            torch.testing.assert_close(found[row].mean(), along, rtol=1e-3, atol=1e-4)
            if way == "layers":
                continue
        expected = []
        for loss in losses:
            own = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
            expected.append(sum((g * d[row]).sum() for g, d in zip(own, direction.values(), strict=True)))
        torch.testing.assert_close(found[row], torch.stack(expected), rtol=1e-3, atol=1e-4)


OPTIMIZERS = {
    "sgd": ("sgd", lambda p: torch.optim.SGD(p, lr=0.1)),
    "momentum": ("momentum", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
    "nesterov": ("nesterov", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True)),
    "rmsprop": (RMSprop(0.99, 1e-8, corrected=False), lambda p: torch.optim.RMSprop(p, lr=0.1)),
    "adam": ("adam", lambda p: torch.optim.Adam(p, lr=0.1)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rules_are_those_of_torch(name):
    rule, build = OPTIMIZERS[name]
    rule = build_rule(rule)
    start = torch.randn(4, 3)
    p, mine = nn.Parameter(start.clone()), {"p": start.clone()}
    optimizer, memory = build([p]), rule.start(mine)
    for step in range(7):
        p.grad = torch.randn(4, 3)
        direction, memory = rule.direction({"p": p.grad}, memory, torch.full((4,), step), {"p": p.detach()})
        optimizer.step()
        mine = {"p": mine["p"] + 0.1 * direction["p"]}
        torch.testing.assert_close(mine["p"], p.detach(), rtol=1e-5, atol=1e-6)


def test_a_row_that_diverges_or_rests_leaves_the_others_as_they_are():
    x, y = batches(5, 8)
    calm, wild = (LearnerStack(mlp, range(5), rule="momentum") for _ in range(2))
    expected = train(calm, x, y, torch.full((5,), 0.1))
    found = train(wild, x, y, torch.tensor([0.1, 1e30, 0.1, 0.1, 0.1]))
    assert wild.diverged.tolist() == [False, True, False, False, False]
    for (a, b), (c, d) in zip(expected, found, strict=True):
        for row in (0, 2, 3, 4):
            assert torch.equal(a[row], c[row])
            assert torch.equal(b[row], d[row])
    before = calm.state_dict()
    one = calm.run(x[0], y[0])
    calm.move(calm.direction(one.gradient), torch.full((5,), 0.1), live=torch.tensor([True, False, True, True, True]))
    assert calm.steps.tolist() == [9, 8, 9, 9, 9]
    after = calm.state_dict()
    for kind in ("parameters", "mean"):
        for key, value in after[kind].items():
            assert torch.equal(value[1], before[kind][key][1])
            assert not torch.equal(value[0], before[kind][key][0])


@pytest.mark.parametrize("name", ["mlp of gelu, dropout", "fc_bn"])
def test_a_restarted_row_is_a_new_run_and_the_others_go_on(name):
    x, y = batches(4, 6)
    stack, untouched = (LearnerStack(NETWORKS[name], range(4), rule="adam") for _ in range(2))
    for one in (stack, untouched):
        train(one, x[:3], y[:3], torch.full((4,), 0.01))
    stack.restart(torch.tensor([False, True, False, True]), [11, 12])
    assert stack.steps.tolist() == [3, 0, 3, 0]
    found = train(stack, x[3:], y[3:], torch.full((4,), 0.01))
    expected = train(untouched, x[3:], y[3:], torch.full((4,), 0.01))
    fresh = LearnerStack(NETWORKS[name], [11], rule="adam")
    own = train(fresh, x[3:, 1:2], y[3:, 1:2], torch.tensor([0.01]))
    for (losses, _), (others, _), (alone, _) in zip(found, expected, own, strict=True):
        assert torch.equal(losses[0], others[0])
        assert torch.equal(losses[2], others[2])
        assert torch.equal(losses[1], alone[0])


@pytest.mark.parametrize("name", ["mlp of gelu, dropout", "cnn"])
def test_a_state_is_data_and_goes_on_bit_for_bit(name):
    x, y = batches(3, 6)
    stack = LearnerStack(NETWORKS[name], range(3), rule="adam")
    train(stack, x[:3], y[:3], torch.full((3,), 0.01))
    file = io.BytesIO()
    torch.save(stack.state_dict(), file)
    expected = train(stack, x[3:], y[3:], torch.full((3,), 0.01))
    again = LearnerStack(NETWORKS[name], range(7, 10), rule="adam")
    again.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    for (a, b), (c, d) in zip(expected, train(again, x[3:], y[3:], torch.full((3,), 0.01)), strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)
    with pytest.raises(CheckpointError, match=r"another stack: .* Build the stack as it was built then"):
        LearnerStack(NETWORKS[name], range(4), rule="adam").load_state_dict(stack.state_dict())


def test_other_losses_and_targets():
    stack = LearnerStack(lambda: nn.Linear(4, 2), range(3), loss=lambda o, t: (o - t).square().sum(1))
    x, t = torch.randn(3, 5, 4), torch.randn(3, 5, 2)
    expected = (torch.stack([stack.network(r)(x[r]) for r in range(3)]) - t).square().sum(2)
    torch.testing.assert_close(stack.run(x, t).losses, expected.detach())


class Doubled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class OwnLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def test_a_layer_of_one_s_own_gets_a_rule():
    assert not has_rules(nn.Sequential(OwnLayer()))
    assert not has_rules(Doubled(4, 2)), "a subclass may do something else"

    @register_stacked_layer(OwnLayer)
    def scaled(stacked, module, path, x):
        (scale,) = stacked.own(path, "scale")

        def apply(scale):
            return x * scale[:, None]

        return stacked.keep(path, apply(scale), apply, "scale")

    def build() -> nn.Module:
        return nn.Sequential(OwnLayer(), nn.Linear(4, 3))

    x, y = torch.randn(3, 5, 4), torch.randint(3, (3, 5))
    by_rule, by_vmap = (LearnerStack(build, range(3), way=way) for way in ("auto", "vmap"))
    assert by_rule.way == "layers"
    one, other = by_rule.run(x, y), by_vmap.run(x, y)
    direction = {key: torch.randn_like(g) for key, g in one.gradient.items()}
    torch.testing.assert_close(one.gradient, other.gradient)
    torch.testing.assert_close(
        by_rule.predicted_changes(one, direction), by_vmap.predicted_changes(other, direction), rtol=1e-4, atol=1e-5
    )


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if float(x.sum()) > 0 else -self.layer(x)


def twice() -> nn.Module:
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer)


def tied() -> nn.Module:
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    network[1].weight = network[0].weight
    return network


widths = iter(range(3, 99))


def frozen() -> nn.Module:
    network = mlp()
    next(network.parameters()).requires_grad_(False)
    return network


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LearnerStack(mlp, []), "seeds is empty"),
        (lambda: LearnerStack(mlp, [0], rule="adm"), "No update rule is called 'adm'. Did you mean 'adam'"),
        (lambda: LearnerStack(mlp, [0], rule=3), "must be an UpdateRule, or the name of one: adam, momentum"),  # pyright: ignore
        (lambda: LearnerStack(mlp, [0], weight_decay=-1), "weight_decay=-1 must be at least 0"),
        (lambda: LearnerStack(mlp, [0], gradient_clip=0), "gradient_clip=0 must be above 0"),
        (lambda: LearnerStack(mlp, [0], way="fast"), "way='fast' is unknown"),
        (
            lambda: LearnerStack(lambda: nn.Linear(4, next(widths)), [0, 1]),
            r"different shapes: bias is torch.float32 \[4\] in row 1, and torch.float32 \[3\] in the first",
        ),
        (
            lambda: LearnerStack(lambda: nn.Sequential(Attends(), nn.Dropout(0.1)), [0]),
            "1 draws dropout, and torch.func.vmap has no random stream for each row",
        ),
        (lambda: LearnerStack(twice, [0]), "2.weight is a tensor that stands under another name too"),
        (lambda: LearnerStack(tied, [0]), "1.weight is a tensor that stands under another name too"),
        (lambda: LearnerStack(Attends, [0], way="layers"), "not so for Attends, GroupNorm, MultiheadAttention"),
        (
            lambda: LearnerStack(Branches, [0, 1]).run(torch.randn(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64)),
            "Branches cannot be run for several rows at once by torch.func.vmap",
        ),
        (lambda: LearnerStack(mlp, [0]).run(torch.zeros(2, 3, 64), torch.zeros(2, 3)), "a batch for each row"),
        (lambda: LearnerStack(mlp, [0]).run(torch.zeros(1, 3, 64), torch.zeros(1, 4)), "3 inputs and 4 targets"),
        (
            lambda: LearnerStack(mlp, [0]).restart(torch.tensor([True]), [1, 2]),
            "one of each for each row that is chosen",
        ),
        (
            lambda: LearnerStack(mlp, [0, 1]).restart(torch.tensor([True, True]), [1, 2], [mlp]),
            "there are 2 seeds and 1 builds",
        ),
        (
            lambda: LearnerStack(mlp, [0, 1]).restart(torch.tensor([False, True]), [1], [lambda: mlp(nn.Tanh)]),
            "built otherwise in row 1 than in the first",
        ),
        (
            lambda: LearnerStack(mlp, [0, 1]).restart(torch.tensor([False, True]), [1], [frozen]),
            "1.weight is frozen in row 1 or in the first",
        ),
        (lambda: LearnerStack(mlp, [0, 1]).network(9), r"rows are \[9\]; expected int64 \[k\], growing, from 0 to 1"),
        (lambda: LearnerStack(mlp, [0, 1]).network(-1), r"rows are \[-1\]"),
        (lambda: LearnerStack(mlp, [0]).outputs(torch.zeros(1, 3, 64), rows=torch.tensor([0, 0])), "growing"),
        (lambda: LearnerStack(mlp, [0]).outputs(torch.zeros(1, 3, 64), rows=torch.tensor([True])), "expected int64"),
        (lambda: LearnerStack(mlp, [0, 1]).outputs(torch.zeros(3, 3, 64)), r"expected \[2, n, ...\], a batch for each"),
        (
            lambda: LearnerStack(NETWORKS["fc_bn"], [0]).run(torch.zeros(1, 1, 1, 8, 8), torch.zeros(1, 1).long()),
            "layers.2 normalises over a batch of one number",
        ),
        (lambda: RMSprop(decay=1), "decay=1 must be at least 0 and below 1"),
        (lambda: Adam(epsilon=0), "epsilon=0 must be above 0"),
        (lambda: Momentum(momentum=float("nan")), "momentum=nan must be"),
    ],
)
def test_bad_input_is_refused_with_what_to_do(make, message):
    with pytest.raises(GarEnvError, match=message):
        make()


def test_a_pass_that_is_past_predicts_nothing():
    stack = LearnerStack(mlp, range(2))
    x, y = batches(2, 1)
    one = stack.run(x[0], y[0])
    direction = stack.direction(one.gradient)
    stack.move(direction, torch.tensor([0.1, 0.1]))
    with pytest.raises(StaleTapeError, match="have moved since that pass"):
        stack.predicted_changes(one, direction)
    with pytest.raises(ConfigurationError, match=r"step_sizes are .*\[1\]; expected one per row, \[2\]"):
        stack.move(direction, torch.tensor([0.1]))


def test_every_registered_rule_is_built_by_name():
    assert {type(build_rule(name)) for name in RULES} == {RULES[name] for name in RULES}


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.ELU], ids=lambda kind: kind.__name__)
def test_layers_that_work_in_place_leave_what_others_keep(activation):
    def build():
        return nn.Sequential(nn.Linear(5, 8), activation(inplace=True), nn.Linear(8, 3))

    check_stacked_layer(build, torch.randn(4, 5))


def test_rows_that_are_built_otherwise_are_refused_and_hooks_are_no_rules():
    made = iter([nn.ReLU(), nn.ReLU(), nn.Tanh()])
    with pytest.raises(ConfigurationError, match="The networks are built otherwise in row 2 than in the first"):
        LearnerStack(lambda: nn.Sequential(nn.Linear(5, 3), next(made)), range(3))

    def hooked():
        layer = nn.Linear(5, 3)
        layer.weight.register_hook(lambda g: g * 0)
        return layer

    with pytest.raises(UnsupportedLayerError, match="needs a rule for every module, without hooks"):
        LearnerStack(hooked, range(2), way="layers")


@pytest.mark.parametrize("n", [2, 5, 32])
@pytest.mark.parametrize("rows", [5, 17])
def test_grouped_convolutions_round_alike_however_many_rows_there_are(n, rows):
    def build():
        return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 36, 4))

    x, t = torch.randn(rows, n, 1, 6, 6), torch.randint(4, (rows, n))
    whole = LearnerStack(build, range(rows)).run(x, t)
    for row in (0, rows - 1):
        alone = LearnerStack(build, [row]).run(x[row : row + 1], t[row : row + 1])
        assert torch.equal(whole.losses[row], alone.losses[0])
        assert all(torch.equal(g[row], alone.gradient[name][0]) for name, g in whole.gradient.items())


def test_a_direction_carries_its_own_memory():
    stack = LearnerStack(lambda: nn.Linear(3, 2), range(2), rule="momentum")
    first = stack.run(torch.randn(2, 4, 3), torch.zeros(2, 4, dtype=torch.int64)).gradient
    direction = stack.direction(first)
    stack.direction({name: 100 * g for name, g in first.items()})  # asked for, not gone
    stack.move(direction, torch.full((2,), 0.1))
    assert all(torch.equal(stack.memory[kind][name], value) for kind, rows in stack.memory.items()
               for name, value in direction.memories[0][kind].items())  # fmt: skip


@pytest.mark.parametrize("live", [torch.tensor([True]), torch.tensor([1, 0]), [True, False]], ids=str)
def test_who_passes_is_bool_one_per_row(live):
    stack = LearnerStack(lambda: nn.Linear(3, 2), range(2))
    with pytest.raises(ConfigurationError, match=r"live is .*; expected bool, one per row"):
        stack.run(torch.randn(2, 4, 3), torch.zeros(2, 4, dtype=torch.int64), live)


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize(
    ("build", "shapes"),
    [
        (lambda: nn.Linear(7, 5), [(8,), (1,), (3, 6), ()]),
        (lambda: nn.Conv2d(3, 4, 3), [(1, 8, 8), (6, 8, 8)]),
        (lambda: nn.Conv2d(16, 16, 3), [(1, 8, 8), (15, 8, 8)]),
        (lambda: nn.BatchNorm1d(5), [(1,), (6,), (5, 4, 4)]),
        (lambda: nn.BatchNorm2d(5), [(1, 4, 4), (6, 4, 4), (5,)]),
        (lambda: nn.LayerNorm(6), [(1,), (3,)]),
        (lambda: nn.LayerNorm((3, 6)), [(6,), (1, 6)]),
    ],
    ids=["linear", "convolution", "wide convolution", "batch_norm", "batch_norm_2d", "layer_norm", "layer_norm_2d"],
)
def test_inputs_that_a_layer_by_itself_refuses_are_refused(
    build: Any, shapes: list[tuple[int, ...]], rows: int
) -> None:
    stack = LearnerStack(build, range(rows), way="layers")
    for shape in shapes:
        with pytest.raises((RuntimeError, ValueError)):
            build()(torch.randn(4, *shape))
        with pytest.raises((RuntimeError, ValueError)):
            stack.outputs(torch.randn(rows, 4, *shape), training=True)


class Scaled(nn.Module):
    """A layer whose rule remembers the pass that it is part of."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(17))


@register_stacked_layer(Scaled)
def scaled(stacked: Any, module: nn.Module, path: str, x: Tensor) -> Tensor:
    def apply(scale: Tensor | None) -> Tensor:
        return x * stacked.own(path, "scale")[0][:, None] if scale is None else x * scale[:, None]

    return stacked.keep(path, apply(*stacked.own(path, "scale")), apply, "scale")


def scaled_mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 17), Scaled(), nn.Linear(17, CLASSES))


@pytest.mark.parametrize("build", [*NETWORKS.values(), scaled_mlp], ids=[*NETWORKS, "closure"])
def test_a_pass_leaves_nothing_behind(build):
    """Without waiting for the garbage collector, for which tensors of gigabytes are a few small objects."""
    stack, (x, t) = LearnerStack(build, seeds=[0, 1, 2]), batches(3, 1)

    def step() -> int:
        one = stack.run(x[0], t[0])
        direction = stack.direction(one.gradient)
        stack.predicted_changes(one, direction)
        stack.move(direction, torch.full((3,), 0.1))
        stack.outputs(x[0])
        del one, direction
        return sum(issubclass(type(found), Tensor) for found in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        step()
        assert step() == step()
    finally:
        gc.enable()
