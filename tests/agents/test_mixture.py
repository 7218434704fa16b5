"""A mixture in a loop of one's own: the environment's draws and rewards, without it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from agents import Keep, LearnedMixture, LinearSoftmax, Reinforce, Softmax
from gar_env.alignment import align, gradient, record
from gar_env.data import load_dataset
from gar_env.errors import CheckpointError, ConfigurationError

N, STEPS = 16, 12


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))


def losses_of(y: Tensor) -> Any:
    return lambda logits: F.cross_entropy(logits, y, reduction="none")


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    """Two sources of 600: the second has random labels."""
    data = load_dataset("digits")
    y = data.y_train[:1200].clone()
    y[600:] = torch.randint(10, (600,), generator=torch.Generator().manual_seed(0))
    return data.x_train[:1200].float() / 127.5 - 1, y


def trained(mixture: LearnedMixture, digits: tuple[Tensor, Tensor], steps: int, net: nn.Module | None = None) -> Any:
    """Rewards of each step; the target is clean."""
    x, y = digits
    data = load_dataset("digits")
    clean, labels = data.x_test.float() / 127.5 - 1, data.y_test
    net = net or network()
    optimizer, paid = torch.optim.SGD(net.parameters(), lr=0.05), []
    for step in range(steps):
        rows = mixture.draw()
        mixture.record(net, x[rows], losses_of(y[rows]))
        optimizer.step()
        optimizer.zero_grad()
        some = torch.arange(32) + 32 * (step % 8)
        paid.append(mixture.pay(lambda some=some: F.cross_entropy(net(clean[some]), labels[some])))
    return paid


def test_draws_and_rewards_are_the_environments_bit_for_bit():
    data = load_dataset("digits")
    data = replace(data, group_train=torch.arange(len(data.x_train)) % 3, groups=("a", "b", "c"))
    sample = replace(data, name="sample", x_train=data.x_test, y_train=data.y_test, group_train=None, groups=())

    def agent() -> Reinforce:
        return Reinforce(Softmax(3), step_size=0.02, seed=4)

    env: Any = gymnasium.make_vec(
        "GAR/DataSplit-v0", num_envs=N, num_steps=STEPS, dataset=data, splits="group", target=sample,
        target_batch_size=20, network="fc", optimizer="sgd", momentum=0.0, weight_decay=0.0, step_size=0.1,
        output="torch",
    ).unwrapped  # fmt: skip
    theirs, expected = agent(), []
    observations, _ = env.reset(seed=4)
    theirs.begin(env)
    splits = env.splits
    net = env.learner.network
    start = {name: p.detach().clone() for name, p in net.named_parameters()}
    for _ in range(STEPS):
        actions = theirs.act(observations)
        observations, rewards, *_ = env.step(actions)
        theirs.learn(rewards, torch.zeros(N, dtype=torch.bool), {})
        expected.append((actions, rewards))

    members = splits.members.split(splits.sizes.tolist())
    mixture = LearnedMixture(dict(zip("abc", members, strict=True)), N, agent=agent(), seed=env.episode_seed)
    net.load_state_dict(start, strict=False)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    def target_loss() -> Tensor:
        rows = torch.randint(len(sample.x_train), (20,), generator=mixture.generator)
        return F.cross_entropy(net(env.normalise(sample.x_train[rows])), sample.y_train[rows])

    owner = torch.empty(len(data.x_train), dtype=torch.int64)
    for i, own in enumerate(members):
        owner[own] = i
    for actions, rewards in expected:
        rows = mixture.draw()
        assert torch.equal(owner[rows], actions)
        mixture.record(net, env.normalise(data.x_train[rows]), losses_of(data.y_train[rows]))
        optimizer.step()
        optimizer.zero_grad()
        assert torch.equal(mixture.pay(target_loss), rewards)
    assert torch.equal(mixture.agent.policy.logits, theirs.policy.logits)


def test_it_turns_away_from_random_labels(digits):
    agent = Reinforce(Keep(2), normalise="size", step_size=0.1)
    mixture = LearnedMixture({"clean": 600, "noisy": 600}, 64, agent=agent)
    trained(mixture, digits, 200)
    assert mixture.probabilities["clean"] > 0.9


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_that_draws_ahead_has_each_batch_paid_for_its_own_draws(digits, workers):
    """Source 1 is paid -1, source 0 +1, by a loss that says so; mixed up, nothing could be learned."""
    x, _ = digits
    owner = (torch.arange(len(x)) >= 600).float()
    agent = Reinforce(Softmax(2, floor=0.0), step_size=0.1)
    mixture = LearnedMixture({"a": 600, "b": 600}, N, agent=agent, length=60)
    net = nn.Linear(1, 1, bias=False)
    for (sign,) in DataLoader(TensorDataset(1 - 2 * owner), batch_sampler=mixture, num_workers=workers):
        mixture.record(net, sign[:, None], lambda out, sign=sign: out[:, 0] * 0 + net.weight.sum() * sign)
        net.zero_grad()
        rewards = mixture.pay(lambda: net.weight.sum())
        torch.testing.assert_close(rewards, sign)
    assert mixture.probabilities["a"] > 0.9
    assert len(mixture) == 60


def test_batches_whose_gradients_accumulate_are_all_paid(digits):
    x, y = digits
    mixture, net = LearnedMixture({"a": 600, "b": 600}, N, seed=1), network()
    rows = [mixture.draw() for _ in range(3)]
    before = mixture.agent.policy.logits.detach().clone()
    for some in rows:
        mixture.record(net, x[some], losses_of(y[some]), loss_scale=1 / 3)
    whole = torch.cat(rows)
    accumulated = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    F.cross_entropy(net(x[whole]), y[whole]).backward()
    for own, p in zip(accumulated, net.parameters(), strict=True):
        torch.testing.assert_close(own, p.grad)
    net.zero_grad()
    target = torch.arange(40)
    found = mixture.pay(lambda: F.cross_entropy(net(x[target]), y[target]))
    tape = record(net, x[rows[2]], losses_of(y[rows[2]]))
    net.zero_grad()
    F.cross_entropy(net(x[target]), y[target]).backward()
    torch.testing.assert_close(found, align(tape, gradient(net)))
    assert mixture.agent.waiting == 0
    assert not torch.equal(before, mixture.agent.policy.logits)


def test_paying_leaves_gradients_and_statistics_alone(digits):
    x, y = digits
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
    mixture = LearnedMixture({"a": 600, "b": 600}, N)
    rows = mixture.draw()
    mixture.record(net, x[rows], losses_of(y[rows]))
    net.zero_grad()
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    buffers = {name: b.clone() for name, b in net.named_buffers()}
    mixture.pay(lambda: F.cross_entropy(net(x[:50]), y[:50]))
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in net.parameters())
    assert all(torch.equal(b, buffers[name]) for name, b in net.named_buffers())


def test_a_batch_that_is_not_paid_teaches_nothing_and_costs_no_target(digits):
    x, y = digits
    mixture, net = LearnedMixture({"a": 600, "b": 600}, N), network()
    rows = mixture.draw()
    mixture.record(net, x[rows], losses_of(y[rows]), paid=False)
    assert mixture.pay(lambda: pytest.fail("nothing is to be paid")) is None
    assert mixture.agent.policy.logits.tolist() == [0, 0]


def test_it_goes_on_from_its_state_bit_for_bit(digits):
    def made() -> LearnedMixture:
        return LearnedMixture({"clean": 600, "noisy": 600}, N, seed=3)

    one, net = made(), network()
    trained(one, digits, 5, net)
    state = {name: p.clone() for name, p in net.state_dict().items()}
    other, copied = made(), network(1)
    other.load_state_dict(one.state_dict())
    copied.load_state_dict(state)
    for a, b in zip(trained(one, digits, 5, net), trained(other, digits, 5, copied), strict=True):
        assert torch.equal(a, b)
    assert one.probabilities == other.probabilities
    with pytest.raises(CheckpointError, match=r"The state is of the sources \[\['clean', 600\], \['noisy"):
        LearnedMixture({"clean": 600, "other": 600}, N).load_state_dict(one.state_dict())


def test_mixed_precision_and_data_parallel_pay_alike(digits, tmp_path):
    x, y = digits
    expected = trained(LearnedMixture({"clean": 600, "noisy": 600}, N, seed=2), digits, 1)[0]
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        found = trained(
            LearnedMixture({"clean": 600, "noisy": 600}, N, seed=2), digits, 1, DistributedDataParallel(network())
        )[0]
    finally:
        dist.destroy_process_group()
    torch.testing.assert_close(found, expected)
    mixture, net = LearnedMixture({"clean": 600, "noisy": 600}, N, seed=2), network()
    rows = mixture.draw()
    with torch.autocast("cpu", torch.bfloat16):
        mixture.record(net, x[rows], losses_of(y[rows]))
        net.zero_grad()
        half = mixture.pay(lambda: F.cross_entropy(net(x[:32]), y[:32]))
    assert torch.isfinite(half).all()
    assert half.abs().max() > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LearnedMixture({"a": 5}, 4), "There are 1 sources and batch_size=4"),
        (lambda: LearnedMixture({"a": 5, "b": 0}, 4), "Source 'b' is 0; expected how many examples it has"),
        (lambda: LearnedMixture({"a": 5, "b": torch.zeros(3)}, 4), "Source 'b' is .*; expected how many"),
        (lambda: LearnedMixture({"a": 5, "b": 5}, 0), "batch_size=0"),
        (lambda: LearnedMixture({"a": 5, "b": 5}, 2, length=-1), "length=-1 must be at least 1 batch"),
        (
            lambda: LearnedMixture({"a": 5, "b": 5}, 2, agent=Reinforce(LinearSoftmax(2, [1.0]))),
            "LinearSoftmax looks at observations, and there are none",
        ),
        (lambda: LearnedMixture({"a": 5, "b": 5}, 4, agent=Reinforce(Softmax(3))), "and there are 2 sources"),
    ],
)
def test_mixtures_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_calls_out_of_turn_are_refused(digits):
    x, y = digits
    mixture, net = LearnedMixture({"a": 600, "b": 600}, N), network()
    with pytest.raises(ConfigurationError, match=r"pay\(\) comes after record\(\)"):
        mixture.pay(lambda: torch.zeros(()))
    with pytest.raises(ConfigurationError, match=r"record\(\) is of a batch that was drawn: call draw\(\)"):
        mixture.record(net, x[:N], losses_of(y[:N]))
    rows = mixture.draw()
    with pytest.raises(ConfigurationError, match="The batch has 15 examples, and 16 were drawn"):
        mixture.record(net, x[rows[1:]], losses_of(y[rows[1:]]))
    mixture.record(net, x[rows], losses_of(y[rows]))
    with pytest.raises(CheckpointError, match="A recorded batch waits to be paid"):
        mixture.state_dict()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_that_was_left_early_is_forgotten(digits, workers):
    """Each batch is paid for its own draws, whatever was drawn ahead and never recorded."""
    x, _ = digits
    owner = (torch.arange(len(x)) >= 600).float()
    mixture = LearnedMixture({"a": 600, "b": 600}, N, agent=Reinforce(Softmax(2, floor=0.0), step_size=0.1), length=30)
    net = nn.Linear(1, 1, bias=False)
    for _ in range(6):
        loader = DataLoader(TensorDataset(1 - 2 * owner), batch_sampler=mixture, num_workers=workers)
        for k, (sign,) in enumerate(loader):
            mixture.record(net, sign[:, None], lambda out, sign=sign: out[:, 0] * 0 + net.weight.sum() * sign)
            net.zero_grad()
            oldest = mixture.agent._unpaid[0].actions
            assert torch.equal(1 - 2 * oldest.float(), sign)
            mixture.pay(lambda: net.weight.sum())
            if k == 9:
                break
    assert mixture.probabilities["a"] > 0.9


def test_an_overflow_is_not_paid_and_the_next_batch_is(digits):
    x, y = digits
    mixture, net = LearnedMixture({"a": 600, "b": 600}, N), network()
    before = mixture.agent.policy.logits.detach().clone()
    rows = mixture.draw()
    mixture.record(net, x[rows], losses_of(y[rows]))
    net.zero_grad()
    assert mixture.pay(lambda: net(x[:20]).sum() * torch.inf) is None
    assert torch.equal(before, mixture.agent.policy.logits)
    mixture.state_dict()
    rows = mixture.draw()
    mixture.record(net, x[rows], losses_of(y[rows]))
    net.zero_grad()
    assert torch.isfinite(mixture.pay(lambda: F.cross_entropy(net(x[:20]), y[:20]))).all()


def test_a_target_that_raises_leaves_nothing_waiting(digits):
    x, y = digits
    mixture, net = LearnedMixture({"a": 600, "b": 600}, N), network()
    rows = mixture.draw()
    mixture.record(net, x[rows], losses_of(y[rows]))
    net.zero_grad()
    with pytest.raises(ZeroDivisionError):
        mixture.pay(lambda: 1 / 0)  # pyright: ignore
    assert mixture.agent.waiting == 0
    mixture.state_dict()


def test_states_of_other_mixtures_are_refused():
    state = LearnedMixture({"a": 100, "b": 100}, N).state_dict()
    with pytest.raises(CheckpointError, match=r"here they are \[\['b', 100\], \['a', 100\]\]"):
        LearnedMixture({"b": 100, "a": 100}, N).load_state_dict(state)
    with pytest.raises(CheckpointError, match="other examples of the same sources"):
        LearnedMixture({"a": torch.arange(100) + 5, "b": torch.arange(100)}, N).load_state_dict(state)
    with pytest.raises(CheckpointError, match="no state of a mixture"):
        LearnedMixture({"a": 100, "b": 100}, N).load_state_dict({})
