import pickle
import re

import pytest
import torch
from torch import nn

from gar_env import check_update_rule
from gar_env.errors import CheckpointError, ConfigurationError
from gar_env.learner import LearnerStack
from gar_env.networks import build_network
from gar_env.optimizers import Grammar, Rule, Semantics, StackedRules
from gar_env.optimizers.draws import Draws
from gar_env.optimizers.interpreter import Interpreter, Slab
from random_rules import random_rules, same

SIZES = (1e-3, 1e-1)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build():
    return build_network("mlp-9", (1, 5, 5), 4)


def batch(step, rows=1):
    generator = torch.Generator().manual_seed(step)
    x, t = torch.randn(1, 20, 1, 5, 5, generator=generator), torch.randint(4, (1, 20), generator=generator)
    return x.expand(rows, *x.shape[1:]), t.expand(rows, 20)


def trained(rules, way, steps=4, seed=0):
    each = [rule for rule in rules for _ in SIZES]
    stacked = StackedRules(each, [seed] * len(each), total_steps=8, way=way)
    stack = LearnerStack(build, [seed] * len(each), rule=stacked)
    for step in range(steps):
        one = stack.run(*batch(step, len(each)))
        stack.move(stack.direction(one.gradient), torch.tensor(SIZES).repeat(len(rules)))
    return torch.cat([p.flatten(1) for p in stack.parameters.values()], 1).view(len(rules), len(SIZES), -1)


@pytest.fixture(scope="module")
def rules():
    return random_rules(200, Grammar(3, decays=True), seed=5)


def test_both_interpreters_and_a_rule_alone_give_the_same_bits(rules):
    together = trained(rules, "loop")
    assert same(together, trained(rules, "grouped"))
    for rule, own in zip(rules, together, strict=True):
        assert same(own, trained([rule], "loop")[0]), str(rule)
    assert together.isfinite().flatten(1).all(1).float().mean() > 0.5


def test_an_exported_optimizer_moves_as_the_row_of_a_stack(rules):
    for rule in rules:
        stack = LearnerStack(build, [0], rule=StackedRules([rule], [3], total_steps=8))
        network = stack.network(0)
        optimizer = rule.to_optimizer(network.parameters(), lr=0.01, total_steps=8, seed=3)
        for step in range(4):
            one = stack.run(*batch(step))
            for name, p in network.named_parameters():
                p.grad = one.gradient[name][0].clone()
            stack.move(stack.direction(one.gradient), torch.tensor([0.01]))
            optimizer.step()
        for name, p in network.named_parameters():
            assert same(stack.parameters[name][0], p.detach()), str(rule)


OPTIMIZERS = {
    "SGD": (lambda ps: torch.optim.SGD(ps, lr=0.1), 0.1, Semantics()),
    # torch's momentum is a sum, ours a mean: ten times as long a step.
    "Momentum": (lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9), 1.0, Semantics(bias_correction=False)),
    "Adam": (lambda ps: torch.optim.Adam(ps, lr=0.01), 0.01, Semantics()),
    "RMSProp": (
        lambda ps: torch.optim.RMSprop(ps, lr=0.01, alpha=0.99),
        0.01,
        Semantics(betas=(0.9, 0.99, 0.999), bias_correction=False),
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_named_rules_are_those_of_torch(name):
    make, lr, semantics = OPTIMIZERS[name]
    theirs, mine = build(), build()
    mine.load_state_dict(theirs.state_dict())
    pairs = [(theirs, make(theirs.parameters()))]
    pairs.append((mine, Rule(name).to_optimizer(mine.parameters(), lr=lr, semantics=semantics)))
    for step in range(30):
        x, t = (part[0] for part in batch(step))
        for network, optimizer in pairs:
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x), t).backward()
            optimizer.step()
    for p, q in zip(theirs.parameters(), mine.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)


def test_what_formulas_come_to():
    """By hand, on two numbers."""
    p = nn.Parameter(torch.tensor([1.0, -2.0]))
    cases = {
        "(1 + sign(g) * sign(m)) * g": [2 * 0.5, 2 * -0.25],
        "exp(g)": [1.6487213, 0.7788008],
        "log(g)": [-0.6931472, -1.3862944],
        "sqrt(g)": [0.7071068, 0.5],
        "clip(g, 0.3)": [0.3, -0.25],
        "g / 0": [0.5e8, -0.25e8],
        "g ^ 2": [0.25, 0.0625],
        "2 ^ g": [1.4142135, 0.8408964],
        "1e-1w": [0.1, -0.2],
        "g2 + g3": [0.375, 0.046875],
        "gamma + v": [0.375, 0.046875],  # bias-corrected, in the first step
        "left(g, m)": [0.5, -0.25],
        "linear_decay * g": [0.5, -0.25],
    }
    for formula, expected in cases.items():
        q = nn.Parameter(p.detach().clone())
        q.grad = torch.tensor([0.5, -0.25])
        Rule(formula).to_optimizer([q], lr=1.0, total_steps=2).step()
        torch.testing.assert_close(p.detach() - q.detach(), torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_decays_go_down_and_noise_is_annealed():
    found = {}
    for name in ("linear_decay", "cosine_decay", "restart_decay", "annealed_noise"):
        p = nn.Parameter(torch.zeros(4000))
        optimizer, values = Rule(name).to_optimizer([p], lr=1.0, total_steps=8), []
        for _ in range(8):
            before, p.grad = p.detach().clone(), torch.ones(4000)
            optimizer.step()
            values.append(before - p.detach())
        found[name] = torch.stack(values)
    for name, expected in (
        ("linear_decay", [1 - t / 8 for t in range(8)]),
        ("cosine_decay", [1, 0.96193975, 0.8535534, 0.69134174, 0.5, 0.30865827, 0.14644662, 0.03806023]),
        ("restart_decay", [1, 0.5] * 4),
    ):
        torch.testing.assert_close(found[name][:, 0], torch.tensor(expected), atol=1e-5, rtol=1e-5)
    spread = found["annealed_noise"].var(1)
    torch.testing.assert_close(spread, (1 + torch.arange(8.0)) ** -0.55, rtol=0.1, atol=0.0)


def test_random_numbers_depend_on_seed_step_and_number_alone():
    def updates(rule, seed, steps=2):
        p = nn.Parameter(torch.zeros(64))
        optimizer, found = Rule(rule).to_optimizer([p], lr=1.0, seed=seed), []
        for _ in range(steps):
            before, p.grad = p.detach().clone(), torch.ones(64)
            optimizer.step()
            found.append(before - p.detach())
        return found

    one, again, other = updates("noise", 0), updates("noise + 0 * m", 0), updates("noise", 1)
    torch.testing.assert_close(one, again)
    assert not torch.equal(one[0], other[0])
    assert not torch.equal(one[0], one[1])
    (dropped,) = updates("drop(g, 0.3)", 0, 1)
    assert set(dropped.tolist()) == {0.0, float(torch.tensor(1.0) / (1 - 0.3))}


def test_a_parameter_without_gradient_stays_and_keeps_its_place_in_the_noise():
    def moved(with_first):
        first, second = nn.Parameter(torch.zeros(5)), nn.Parameter(torch.zeros(7))
        optimizer = Rule("noise * g + m").to_optimizer([first, second], lr=0.1)
        for step in range(3):
            first.grad = torch.ones(5) if with_first else None
            second.grad = torch.full((7,), step + 1.0)
            optimizer.step()
        return first.detach(), second.detach()

    whole, part = moved(True), moved(False)
    assert torch.equal(whole[1], part[1])
    assert whole[0].all()
    assert not part[0].any()


def test_groups_schedulers_and_closures_work_as_with_torchs_own():
    a, b = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = Rule("g").to_optimizer([{"params": [a]}, {"params": [b], "lr": 0.5}], lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

    def closure():
        optimizer.zero_grad()
        loss = (a.sum() + b.sum()) * 1.0
        loss.backward()
        return loss

    assert float(optimizer.step(closure)) == 6
    scheduler.step()
    optimizer.step(closure)
    torch.testing.assert_close(a.detach(), torch.full((3,), 1 - 0.1 - 0.05))
    torch.testing.assert_close(b.detach(), torch.full((3,), 1 - 0.5 - 0.25))
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    optimizer.step(closure)


def test_an_optimizer_goes_on_from_its_state():
    def start():
        network = build()
        return network, Rule("Adam * exp(noise) + gamma").to_optimizer(network.parameters(), lr=0.01, seed=4)

    def step(network, optimizer, number):
        x, t = (part[0] for part in batch(number))
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), t).backward()
        optimizer.step()

    torch.manual_seed(0)
    network, optimizer = start()
    for number in range(3):
        step(network, optimizer, number)
    other, fresh = start()
    other.load_state_dict(network.state_dict())
    fresh.load_state_dict(optimizer.state_dict())
    for number in range(3, 6):
        step(network, optimizer, number)
        step(other, fresh, number)
    for p, q in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
    with pytest.raises(
        CheckpointError, match=re.escape("The state is of 'Adam * exp(noise) + gamma', and this optimizer")
    ):
        Rule("g").to_optimizer(other.parameters(), lr=0.1).load_state_dict(optimizer.state_dict())


def test_a_copy_of_an_optimizer_goes_on_like_it():
    p = nn.Parameter(torch.ones(3))
    optimizer = Rule("m * exp(noise)").to_optimizer([p], lr=0.1)
    p.grad = torch.ones(3)
    optimizer.step()
    other = pickle.loads(pickle.dumps(optimizer))
    (q,) = other.param_groups[0]["params"]
    p.grad, q.grad = torch.full((3,), 2.0), torch.full((3,), 2.0)
    optimizer.step()
    other.step()
    assert torch.equal(p, q)


def test_a_parameter_that_comes_late_begins_as_any_other():
    """Its running means are corrected for its own steps: as torch's Adam does."""
    ends = []
    for ours in (True, False):
        old, late = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(4))
        optimizer = Rule("Adam").to_optimizer([old], lr=0.01) if ours else torch.optim.Adam([old], lr=0.01)
        for step in range(40):
            if step == 30:
                optimizer.add_param_group({"params": [late], "lr": 0.02})
            old.grad, late.grad = torch.full((3,), 1.0 + step % 3), torch.full((4,), 2.0 - step % 5)
            optimizer.step()
        ends.append(torch.cat([old.detach(), late.detach()]))
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)


def test_a_state_of_other_options_or_shapes_is_refused():
    def made(*sizes, **options):
        parameters = [nn.Parameter(torch.ones(size)) for size in sizes]
        optimizer = Rule("m").to_optimizer([{"params": [p]} for p in parameters], lr=0.1, **options)
        for p in parameters:
            p.grad = torch.ones_like(p)
        optimizer.step()
        return optimizer

    state = made(6, 3).state_dict()
    with pytest.raises(
        CheckpointError, match=re.escape("The state of parameter 0 has the shape [6], and the parameter")
    ):
        made(3, 6).load_state_dict(state)
    with pytest.raises(CheckpointError, match=r"The state is of betas=\(0.9, 0.999, 0.999\), and here it is"):
        made(6, 3, semantics=Semantics(betas=(0.5, 0.5, 0.5))).load_state_dict(state)
    with pytest.raises(CheckpointError, match="The state is of total_steps=None, and here it is 5"):
        made(6, 3, total_steps=5).load_state_dict(state)
    other = made(6, 3, seed=9)
    other.load_state_dict(state)
    assert other.seed == 0


def test_groups_and_types_that_a_rule_does_not_know_are_refused():
    p = nn.Parameter(torch.ones(2))
    with pytest.raises(ConfigurationError, match="A parameter group has 'weight_decay', which the rule does not know"):
        Rule("g").to_optimizer([{"params": [p], "weight_decay": 0.1}], lr=0.1)
    with pytest.raises(ConfigurationError, match=r"lr=-1\.0 must be above 0"):
        Rule("g").to_optimizer([{"params": [p], "lr": -1.0}], lr=0.1)
    Rule("g").to_optimizer([p], lr=torch.tensor(0.1))  # pyright: ignore
    half = nn.Parameter(torch.ones(2, dtype=torch.float16))
    half.grad = torch.ones_like(half)
    with pytest.raises(ConfigurationError, match="half precision, in which epsilon is 0"):
        Rule("Adam").to_optimizer([half], lr=0.1).step()


def test_draws_have_the_type_of_the_gradient_in_both_interpreters():
    generator = torch.Generator().manual_seed(0)
    g = torch.randn(2, 64, generator=generator, dtype=torch.float64)
    rule, found = Rule("exp(noise) * drop(g, 0.3)"), []
    for way in ("loop", "grouped"):
        slabs = [Slab(slice(i, i + 1), rule.steps, rule.memory, Draws(0, 64, 64, g.device)) for i in range(2)]
        found.append(Interpreter(slabs, Semantics(), None, way).updates(g, g, {}, torch.zeros(2, dtype=torch.int64)))
    assert torch.equal(*found)


def test_normal_and_uniform_draws_are_not_of_one_stream():
    draws = Draws(0, 1000, 1024, torch.device("cpu"))
    ranks = [draws.of(kind, 0, 0)[:1000].argsort().argsort().double() for kind in ("uniform", "normal")]
    assert abs(float(torch.corrcoef(torch.stack(ranks))[0, 1])) < 0.1


def test_a_stack_of_several_blocks_keeps_every_rules_memory(monkeypatch):
    monkeypatch.setattr("gar_env.learner.stack.BLOCK_BYTES", 1)

    def made():
        return LearnerStack(build, [0, 0, 0], rule=StackedRules(["g", "Adam", "gamma + v"]))

    def step(stack, number):
        stack.move(stack.direction(stack.run(*batch(number, 3)).gradient), torch.tensor([0.1, 0.01, 0.1]))

    stack, other = made(), made()
    for number in range(3):
        step(stack, number)
    other.load_state_dict(stack.state_dict())
    for number in range(3, 5):
        step(stack, number)
        step(other, number)
    for name, value in stack.parameters.items():
        assert torch.equal(other.parameters[name], value)


def test_rows_of_one_rule_at_different_steps_are_refused():
    stack = LearnerStack(build, [0, 0], rule=StackedRules(["noise * g"] * 2))
    one = stack.run(*batch(0, 2))
    stack.move(stack.direction(one.gradient), torch.ones(2), live=torch.tensor([False, True]))
    with pytest.raises(ConfigurationError, match="Rows 0 to 1 follow one rule and are at different steps"):
        stack.direction(stack.run(*batch(1, 2)).gradient)


def test_what_an_optimizer_cannot_do_is_refused():
    p = nn.Parameter(torch.ones(2))
    with pytest.raises(
        ConfigurationError, match=r"has a decay, which needs to know how long training is. Pass total_steps"
    ):
        Rule("linear_decay * g").to_optimizer([p], lr=0.1)
    for lr in (0, -1.0, float("nan")):
        with pytest.raises(ConfigurationError, match=r"lr=.* must be above 0"):
            Rule("g").to_optimizer([p], lr=lr)
    with pytest.raises(ConfigurationError, match="total_steps=0 must be a whole number"):
        Rule("g").to_optimizer([p], lr=0.1, total_steps=0)
    with pytest.raises(ConfigurationError, match=r"betas=\(0.9, 1.0, 0.999\) must be three numbers"):
        Semantics(betas=(0.9, 1.0, 0.999))
    other = nn.Parameter(torch.ones(2, dtype=torch.float64))
    p.grad, other.grad = torch.ones(2), torch.ones(2, dtype=torch.float64)
    with pytest.raises(ConfigurationError, match="several devices or of several types"):
        Rule("g").to_optimizer([p, other], lr=0.1).step()
    table = nn.Embedding(3, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ConfigurationError, match="A gradient is sparse"):
        Rule("g").to_optimizer(table.parameters(), lr=0.1).step()


def test_stacked_rules_keep_what_stacks_rely_on():
    check_update_rule(StackedRules(["Adam * exp(1e-3w)", "drop(m, 0.3) + gamma", "g"], [0, 1, 2]))
    with pytest.raises(ConfigurationError, match="There are 2 rules and 1 seeds"):
        StackedRules(["g", "m"], [0])
    with pytest.raises(ConfigurationError, match="linear_decay has a decay"):
        StackedRules(["linear_decay"])


def test_a_selection_of_rows_goes_on_as_the_whole_does():
    rules = ["Adam", "PowerSign", "drop(m, 0.3)", "gamma + v", "g"]
    whole = LearnerStack(build, [0] * 5, rule=StackedRules(rules))
    sizes, rows = torch.tensor([0.01, 0.1, 0.1, 0.1, 0.1]), torch.tensor([1, 2, 4])

    def step(stack, number, some):
        one = stack.run(*batch(number, len(stack)))
        stack.move(stack.direction(one.gradient), some)

    for number in range(3):
        step(whole, number, sizes)
    part = whole.select(rows)
    before = {name: value.clone() for name, value in part.parameters.items()}
    for number in range(3, 6):
        step(whole, number, sizes)
    assert all(torch.equal(part.parameters[name], value) for name, value in before.items())
    for number in range(3, 6):
        step(part, number, sizes[rows])
    for name, value in whole.parameters.items():
        assert torch.equal(part.parameters[name], value[rows])
