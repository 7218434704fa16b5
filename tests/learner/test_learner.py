import copy
import io

import pytest
import torch
from torch import nn

from gar_env.data import Batch
from gar_env.errors import CheckpointError, ConfigurationError, UnknownNameError
from gar_env.learner import Learner, TrainingOptions


def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


def learner(seed=0, build=network, **options):
    return Learner(build, TrainingOptions(**options), seed=seed, num_steps=20)


def batch(step):
    generator = torch.Generator().manual_seed(step)
    return Batch(torch.randn(6, 1, 4, 4, generator=generator), torch.randint(3, (6,), generator=generator))


def train(learner, steps):
    losses = []
    for step in steps:
        losses.append(learner.run(batch(step), record=bool(step % 2)).losses)
        learner.update()
    return torch.stack(losses)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop"])
def test_a_loaded_learner_goes_on_bit_equal(optimizer):
    options = {"optimizer": optimizer, "step_size": 0.01, "schedule": "cosine", "warmup_steps": 3}
    straight = learner(**options)
    train(straight, range(7))
    file = io.BytesIO()
    torch.save(straight.state_dict(), file)
    file.seek(0)
    expected = train(straight, range(7, 15))
    resumed = learner(seed=99, **options)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(train(resumed, range(7, 15)), expected)
    for name, value in straight.network.state_dict().items():
        assert torch.equal(resumed.network.state_dict()[name], value), name


def test_the_seed_decides_the_network_and_its_dropout():
    assert torch.equal(train(learner(seed=1), range(4)), train(learner(seed=1), range(4)))
    assert not torch.equal(train(learner(seed=1), range(4)), train(learner(seed=2), range(4)))


def test_a_recorded_pass_trains_like_a_plain_one():
    plain, recorded = learner(), learner()
    for step in range(4):
        torch.testing.assert_close(plain.run(batch(step)).losses, recorded.run(batch(step), record=True).losses)
        plain.update()
        recorded.update()
    for a, b in zip(plain.network.parameters(), recorded.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_sgd_is_torchs_with_nesterov_momentum_and_weight_decay():
    ours = learner(build=lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), step_size=0.1)
    theirs = copy.deepcopy(ours.network)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    for step in range(5):
        ours.run(batch(step))
        ours.update()
        optimizer.zero_grad()
        nn.functional.cross_entropy(theirs(batch(step).inputs), batch(step).targets).backward()
        optimizer.step()
    for a, b in zip(ours.network.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_gradient_is_read_before_clipping_and_clipping_bounds_the_step():
    clipped = learner(build=lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), step_size=1.0, momentum=0,
                      weight_decay=0, gradient_clip=1e-3)  # fmt: skip
    before = [p.detach().clone() for p in clipped.network.parameters()]
    clipped.run(batch(0))
    assert torch.stack([g.norm() for g in clipped.gradient().values()]).norm() > 0.1
    clipped.update()
    moved = [p - b for p, b in zip(clipped.network.parameters(), before, strict=True)]
    torch.testing.assert_close(torch.stack([m.norm() for m in moved]).norm().item(), 1e-3, rtol=1e-3, atol=0)


def test_a_side_pass_leaves_the_training_run_as_it_was():
    quiet, asked = learner(build=lambda: network()[:3]), learner(build=lambda: network()[:3])
    for step in range(3):
        quiet.run(batch(step))
        asked.run(batch(step))
        aside = asked.run(batch(50), aside=True)
        losses, gradient = aside.losses, aside.gradient
        assert losses.shape == (len(batch(50).targets),)
        assert set(gradient) == {name for name, _ in asked.network.named_parameters()}
        quiet.update()
        asked.update()
    for name, value in quiet.network.state_dict().items():
        assert torch.equal(asked.network.state_dict()[name], value), name


def test_divergence_is_seen_in_any_parameter():
    run = learner()
    assert not run.diverged
    with torch.no_grad():
        run.network[5].bias[1] = torch.nan
    assert run.diverged


def test_evaluation_is_in_evaluation_mode_and_goes_back():
    run = learner()
    train(run, range(3))
    accuracy, loss = run.evaluate([batch(0), batch(1)])
    assert (accuracy, loss) == run.evaluate([batch(0), batch(1)]), "dropout was on"
    assert run.network.training
    expected = run.network.eval()(torch.cat([batch(0).inputs, batch(1).inputs]))
    targets = torch.cat([batch(0).targets, batch(1).targets])
    assert accuracy == pytest.approx(float((expected.argmax(1) == targets).float().mean()))
    assert loss == pytest.approx(nn.functional.cross_entropy(expected, targets).item())


def test_a_state_of_another_network_is_refused_and_nothing_is_lost():
    run = learner()
    before = copy.deepcopy(run.network.state_dict())
    other = learner(build=lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
    with pytest.raises(CheckpointError, match="belongs to another network or optimizer"):
        run.load_state_dict(other.state_dict())
    with pytest.raises(
        CheckpointError,
        match="has the entries buffers, built, findings, generator, network, optimizer, steps; found network",
    ):
        run.load_state_dict({"network": {}})
    for name, value in run.network.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_state_in_memory_is_a_copy():
    run = learner()
    train(run, range(3))
    saved = run.state_dict()
    expected = train(run, range(3, 6))
    run.load_state_dict(saved)
    assert torch.equal(train(run, range(3, 6)), expected)


@pytest.mark.parametrize(
    "options", [{"optimizer": "adamw"}, {"schedule": "cosine"}, {"step_size": 0.2}, {"gradient_clip": 1.0}]
)
def test_a_state_of_another_recipe_is_refused(options):
    with pytest.raises(CheckpointError, match="belongs to a learner built with"):
        learner().load_state_dict(learner(**options).state_dict())


def test_a_broken_generator_state_leaves_the_learner_as_it_was():
    run, other = learner(seed=0), learner(seed=1)
    before = copy.deepcopy(run.network.state_dict())
    with pytest.raises(CheckpointError):
        run.load_state_dict({**other.state_dict(), "generator": torch.zeros(3, dtype=torch.uint8)})
    for name, value in run.network.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_state_with_a_waiting_gradient_is_refused():
    run = learner()
    run.run(batch(0))
    with pytest.raises(CheckpointError, match=r"waiting for update\(\)"):
        run.state_dict()


def test_evaluation_draws_from_no_global_generator_and_goes_back_after_an_error():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 3)

        def forward(self, x):
            return self.layer(nn.functional.dropout(x.flatten(1), 0.5, training=True))

    run, state = learner(build=Noisy), torch.get_rng_state()
    expected = learner(build=Noisy).run(batch(0)).losses
    run.evaluate([batch(0)])
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ZeroDivisionError):
        run.evaluate(1 / 0 for _ in range(1))
    assert run.network.training
    assert torch.equal(run.run(batch(0)).losses, expected)


def test_a_network_that_returns_no_logits_is_refused():
    with pytest.raises(ConfigurationError, match=r"returned \[6, 2\] for 6 examples with labels up to"):
        learner(build=lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 2))).run(batch(0))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"optimizer": "sgdd"}, UnknownNameError, r"No optimizer is called 'sgdd'. Did you mean 'sgd'\?"),
        ({"optimizer": "lbfgs"}, ConfigurationError, "needs more than one dense gradient a step"),
        ({"optimizer": "adam", "momentum": 0.9}, ConfigurationError, "has no momentum option"),
        ({"optimizer": "rprop"}, ConfigurationError, "has no weight decay. Pass weight_decay=0"),
        ({"step_size": 0.0}, ConfigurationError, "step_size=0.0 must be above 0"),
        ({"gradient_clip": -1.0}, ConfigurationError, "gradient_clip=-1.0 must be above 0"),
        ({"schedule": "cosin"}, ConfigurationError, r"schedule='cosin' is unknown. Did you mean 'cosine'\?"),
        ({"warmup_steps": 21}, ConfigurationError, "warmup_steps=21 must be between 0 and the 20 SGD steps"),
    ],
)
def test_options_that_cannot_be_say_why(options, error, message):
    with pytest.raises(error, match=message):
        learner(**options)


def test_a_network_that_counts_in_an_attribute_is_not_saved_in_part():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.calls = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), 0

        def forward(self, x):
            self.calls += self.training
            return self.inner(x) / (1 + self.calls)

    run = learner(build=Counts)
    run.run(batch(0))
    run.update()
    with pytest.raises(CheckpointError, match="The network's calls has changed from 0 to 1, which its state_dict"):
        run.state_dict()
