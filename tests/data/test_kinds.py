"""Data that are not images: vectors, tokens, numbers to predict."""

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

import gar_env  # noqa: F401 - registers the environments
from gar_env.data import Dataset, load_dataset, make_pool, normalisation, register_dataset
from gar_env.errors import ConfigurationError, DatasetFormatError
from gar_env.learner import LOSSES, Loss, measure, register_loss
from gar_env.networks import register_network

generator = torch.Generator().manual_seed(0)


def draw(*shape):
    return torch.randn(*shape, generator=generator)


def vectors(n=240, outputs=1):
    x = draw(n, 6) * torch.tensor([1.0, 5, 0.1, 1, 1, 1]) + 3
    y = (x[:, :1] * 2 - x[:, 1:2]).repeat(1, outputs) + 0.1 * draw(n, outputs)
    half = n // 2
    return Dataset("line", x[:half], y[:half], x[half:], y[half:])


def labelled(n=240):
    x = draw(n, 6)
    y = (x[:, 0] > 0).long()
    return Dataset("sides", x[: n // 2], y[: n // 2], x[n // 2 :], y[n // 2 :], ("left", "right"))


def tokens(n=160, length=7, vocabulary=5):
    """Each token is the one before it, plus 1."""
    start = torch.randint(vocabulary, (n, 1), generator=generator)
    text = (start + torch.arange(length + 1)) % vocabulary
    x, y = text[:, :-1].contiguous(), text[:, 1:].contiguous()
    y[::3, -2:] = -1  # padding
    return Dataset("counting", x[: n // 2], y[: n // 2], x[n // 2 :], y[n // 2 :], tuple("abcde"))


class NextToken(nn.Module):
    def __init__(self, input_shape, num_outputs):
        super().__init__()
        self.embedding, self.head = nn.Embedding(num_outputs, 8), nn.Linear(8, num_outputs)

    def forward(self, inputs):
        return self.head(self.embedding(inputs))


CASES = {
    "numbers": (vectors, {"network": "fc", "step_size": 0.01, "inputs": "standardised"}),
    "several numbers": (lambda: vectors(outputs=3), {"network": "fc_bn", "step_size": 0.01}),
    "vectors with labels": (labelled, {"network": "fc"}),
    "tokens": (tokens, {"network": NextToken}),
}

register_network("test_next_token")(NextToken)
for _name, (_make, _) in CASES.items():
    register_dataset(f"test {_name}")(lambda download=False, make=_make: make())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("timing", ["same_step", "next_step"])
def test_every_kind_trains_pays_and_keeps_the_contract(case, timing):
    data, options = CASES[case]
    named = {**options, "network": "test_next_token" if case == "tokens" else options["network"]}
    env = gymnasium.make_vec(
        "GAR/DataSplit-v0",
        num_envs=16,
        dataset=f"test {case}",
        num_splits=4,
        num_steps=6,
        reward_timing=timing,
        **named,
    )
    env = gymnasium.make_vec(
        "GAR/DataSplit-v0", num_envs=32, dataset=data(), num_splits=4, num_steps=60, reward_timing=timing, **options
    )
    env.reset(seed=0)
    before = env.unwrapped.evaluate()
    env.action_space.seed(0)
    for _ in range(60):
        _, rewards, _, _, infos = env.step(env.action_space.sample())
    after = env.unwrapped.evaluate()
    assert after["test_loss"] < 0.8 * before["test_loss"]
    assert after["test_accuracy"] > before["test_accuracy"]
    assert infos["test_accuracy"][0] == pytest.approx(after["test_accuracy"])
    assert rewards.any()


@pytest.mark.parametrize("case", CASES)
def test_alignment_of_every_kind_is_that_of_one_backward_pass_per_example(case):
    from gar_env.alignment import align, record
    from gar_env.learner import losses_of

    data, options = CASES[case]
    env = gymnasium.make_vec(
        "GAR/DataSplit-v0",
        num_envs=5,
        dataset=data(),
        num_splits=4,
        **{**options, "network": (NextToken if case == "tokens" else "fc")},
    ).unwrapped
    env.reset(seed=0)
    network = env.learner.network.double()
    batch = env.gather(env.pool.members[:5]).examples
    inputs = batch.inputs.double() if batch.inputs.is_floating_point() else batch.inputs
    targets = batch.targets.double() if batch.targets.is_floating_point() else batch.targets
    batch = batch._replace(inputs=inputs, targets=targets)
    direction = {name: torch.randn_like(p) for name, p in network.named_parameters()}
    found = align(record(network, inputs, losses_of(batch, None, env.dataset.loss)), direction)
    expected = []
    for i in range(5):
        one = losses_of(batch._replace(targets=targets[i : i + 1]), None, env.dataset.loss)
        gradients = torch.autograd.grad(one(network(inputs[i : i + 1])).sum(), list(network.parameters()))
        expected.append(sum((g * direction[n]).sum() for g, n in zip(gradients, direction, strict=True)))
    torch.testing.assert_close(found, torch.stack(expected))


def test_a_split_with_exchanged_targets_is_found_among_numbers():
    from agents import InvertedSoftmax, Reinforce, train

    torch.manual_seed(0)
    env = gymnasium.make_vec(
        "GAR/DataSplit-v0", num_envs=64, dataset=vectors(2000), num_splits=5, num_steps=150, network="fc",
        step_size=0.01, inputs="standardised",
    )  # fmt: skip
    agent = Reinforce(InvertedSoftmax(5))
    train(env, agent, seed=0)
    assert agent.policy.probabilities()[0] < 0.02
    assert env.unwrapped.split_names[0] == "0 (label_noise)"


def test_losses_and_accuracies_of_tokens_leave_padding_out():
    outputs = torch.zeros(2, 3, 4)
    outputs[:, :, 1] = 5.0
    loss = LOSSES["token_cross_entropy"](torch.tensor([[1, 1, 2], [1, -1, -1]]))
    each = torch.log_softmax(outputs[0, 0], 0)
    torch.testing.assert_close(loss(outputs), torch.stack([-(2 * each[1] + each[2]) / 3, -each[1]]))
    assert loss.accuracy(outputs).tolist() == pytest.approx([2 / 3, 1])


def test_r_squared_is_the_share_of_variance_explained():
    y = draw(50, 2)
    outputs = y + 0.3 * draw(50, 2)
    found = LOSSES["squared_error"](y).accuracy(outputs).mean()
    expected = 1 - (outputs - y).square().mean() / (y - y.mean(0)).square().mean()
    torch.testing.assert_close(found, expected)


def test_vectors_are_standardised_per_entry_or_taken_as_they_are():
    data = vectors()
    scaled = normalisation(data.x_train, "standardised")(data.x_train)
    torch.testing.assert_close(scaled.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled.std(0, correction=0), torch.ones(6))
    assert torch.equal(normalisation(data.x_train, "symmetric")(data.x_train), data.x_train)
    text = tokens()
    assert normalisation(text.x_train, "standardised")(text.x_train).dtype == torch.int64


def test_a_loss_of_one_s_own_is_one_class():
    @register_loss("test_absolute_error")
    class AbsoluteError(Loss):
        def each(self, outputs):
            return (outputs - self.targets).abs().flatten(1).mean(1)

        def accuracy(self, outputs):
            return -self.each(outputs)

    try:
        from gar_env.data import Batch
        from gar_env.learner import Learner

        learner = Learner(lambda: nn.Linear(6, 1), seed=0, num_steps=1, loss="test_absolute_error")
        data = vectors()
        assert learner.run(Batch(data.x_train, data.y_train)).losses.shape == (120,)
    finally:
        del LOSSES._objects["test_absolute_error"]


@pytest.mark.parametrize(
    ("env", "data", "options", "message"),
    [
        ("GAR/DataWeight-v0", vectors, {"corrupt": ""}, "line has no labels, and slots observe margins"),
        ("GAR/Augment-v0", vectors, {}, "line holds vectors; image operations are for images"),
        ("GAR/DataSplit-v0", vectors, {"splits": "class"}, "splits='class' needs a label for each example, and line"),
        ("GAR/DataSplit-v0", vectors, {"network": "cnn"}, "network='cnn' takes images, .* and inputs are"),
        ("GAR/DataSplit-v0", vectors, {"corrupt": "0:symmetric_noise"}, "line cannot be spoiled by symmetric_noise"),
        ("GAR/DataSplit-v0", labelled, {"corrupt": "0:easy"}, "sides cannot be spoiled by easy: it changes pixels"),
        ("GAR/DataSplit-v0", tokens, {"network": "fc"}, "network='fc' on 8 tokens .*, as counting has them, fails"),
    ],
)  # fmt: skip
def test_what_a_kind_cannot_be_used_for_is_said(env, data, options, message):
    with pytest.raises(ConfigurationError, match=message):
        gymnasium.make_vec(env, num_envs=8, dataset=data(), **{"network": "fc", **options})


@pytest.mark.parametrize("signal", ["last_layer_gar"])
def test_a_signal_for_labels_says_so(signal):
    from gar_env.errors import GarEnvError

    env = gymnasium.make_vec("GAR/DataSplit-v0", num_envs=8, dataset=vectors(), network="fc", reward=signal)
    env.reset(seed=0)
    with pytest.raises(GarEnvError, match="cross entropy"):
        env.step(np.zeros(8, int))


def test_a_file_holds_any_kind(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 3))
    np.savez(tmp_path / "n.npz", x_train=x, y_train=x[:, 0], x_test=x, y_test=x[:, 0])
    data = load_dataset(str(tmp_path / "n.npz"))
    assert (data.kind, data.loss, data.input_shape, data.outputs) == ("vectors", "squared_error", (3,), 1)
    text = np.frombuffer(b"what is written here " * 8, np.uint8).reshape(8, 21)
    np.savez(tmp_path / "t.npz", x_train=text[:, :-1], y_train=text[:, 1:], x_test=text[:, :-1], y_test=text[:, 1:])
    data = load_dataset(str(tmp_path / "t.npz"))
    assert (data.kind, data.loss, data.input_shape) == ("tokens", "token_cross_entropy", (20,))
    assert data.outputs == text.max() + 1
    np.savez(tmp_path / "f.npz", x_train=np.zeros((4, 8, 8, 3)), y_train=[0, 1, 0, 1], x_test=x, y_test=x[:, 0])
    with pytest.raises(DatasetFormatError, match=r"found float64 \[4, 8, 8, 3\]\. Scale images to 0\.\.255"):
        load_dataset(str(tmp_path / "f.npz"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x_train": torch.full((3, 2), torch.nan)}, "x_train holds NaN or infinity"),
        ({"y_train": torch.zeros(3, 1, dtype=torch.float64)}, "y_train is torch.float64 .* and y_test"),
        ({"classes": ("a", "b")}, "y_train must be finite float32 .* without classes"),
        ({"y_train": torch.full((3, 1), torch.inf)}, "y_train must be finite float32"),
        ({"y_test": torch.zeros(3, 2)}, "y_train is torch.float32 .* and y_test"),
        ({"x_test": torch.zeros(3, 2, dtype=torch.int64)}, "training vectors are torch.float32"),
    ],
)
def test_data_of_a_wrong_kind_are_refused(changed, message):
    whole = {"x_train": torch.zeros(3, 2), "y_train": torch.zeros(3, 1), "x_test": torch.zeros(3, 2)}
    with pytest.raises(DatasetFormatError, match=message):
        Dataset("d", **{**whole, "y_test": torch.zeros(3, 1), **changed})


def test_pools_of_numbers_exchange_targets():
    data = vectors()
    pool = make_pool(data, torch.Generator().manual_seed(0), corrupt="label_noise(0.5)")
    assert pool.targets.dtype == torch.float32
    moved = (pool.targets != data.y_train).any(1)
    assert moved[pool.spoiled].float().mean() > 0.9
    assert not moved[~pool.spoiled].any()


@pytest.mark.parametrize("size", [1000, 999, 7])
def test_r_squared_does_not_depend_on_how_examples_are_batched(size):
    y = draw(2001, 1).sort(0).values * 3
    outputs = y + 0.5 * draw(2001, 1)
    whole = measure("squared_error", [(outputs, y)])
    assert measure("squared_error", zip(outputs.split(size), y.split(size), strict=True)) == pytest.approx(whole)
    assert whole[0] == pytest.approx(1 - float((outputs - y).square().mean() / y.var(correction=0)))


def test_labels_in_a_column_are_labels_and_one_hot_ones_are_named(tmp_path):
    x, y = np.zeros((6, 4, 4), np.uint8), np.arange(6) % 3
    np.savez(tmp_path / "keras.npz", x_train=x, y_train=y[:, None], x_test=x, y_test=y[:, None])
    assert load_dataset(str(tmp_path / "keras.npz")).y_train.tolist() == y.tolist()
    np.savez(tmp_path / "hot.npz", x_train=x, y_train=np.eye(3, dtype=int)[y], x_test=x, y_test=np.eye(3, dtype=int)[y])
    with pytest.raises(DatasetFormatError, match=r"Of one-hot labels, pass their argmax\(1\)"):
        load_dataset(str(tmp_path / "hot.npz"))
    np.savez(tmp_path / "float.npz", x_train=x, y_train=y * 1.0, x_test=x, y_test=y * 1.0, classes=["a", "b", "c"])
    with pytest.raises(DatasetFormatError, match="has classes, and labels in floating point"):
        load_dataset(str(tmp_path / "float.npz"))
    deep = x.astype(np.int64)[..., None]
    np.savez(tmp_path / "deep.npz", x_train=deep, y_train=y, x_test=deep, y_test=y)
    with pytest.raises(DatasetFormatError, match=r"found int64 \[6, 4, 4, 1\]. Scale images to 0..255"):
        load_dataset(str(tmp_path / "deep.npz"))


def test_few_numbers_can_be_repeated():
    pool = make_pool(vectors(60), torch.Generator().manual_seed(0), corrupt="repeated(0.2)")
    assert torch.equal(pool.inputs[pool.spoiled.nonzero().flatten()].unique(dim=0), pool.inputs[pool.members[:1]])
