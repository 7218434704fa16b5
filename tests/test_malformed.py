"""Bad input by kind: one error of ours each, short, that prints no numbers of an array. Nothing hangs."""

from __future__ import annotations

import threading

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

import gar_env  # noqa: F401 - registers the environments
from agents import FixedPolicy, InvertedSoftmax, OnlineAugmentation, Reinforce
from gar_env.alignment import Alignment, align, aligning, example_lengths, record
from gar_env.augment import SPACES
from gar_env.data import Batch, Dataset, load_dataset, register_corruption
from gar_env.data.corruptions import CORRUPTIONS
from gar_env.errors import CheckpointError, ConfigurationError, GarEnvError
from gar_env.learner import Learner, TrainingOptions
from gar_env.networks import build_network
from gar_env.rewards import Need

IDS = ("GAR/DataSplit-v0", "GAR/DataWeight-v0", "GAR/Augment-v0")
LONG = "x" * 3000
TENSOR = torch.zeros(50)


def refused(call) -> str:
    with pytest.raises(GarEnvError) as error:
        call()
    said = str(error.value)
    assert said
    assert len(said) < 1500
    assert "tensor([" not in said
    return said


NUMBERS = [np.nan, np.inf, -1.0, 1e308, 10**38, 10**400, "1", None, True, TENSOR, [1]]


@pytest.mark.parametrize("value", NUMBERS, ids=lambda value: str(type(value).__name__) + str(value)[:8])
@pytest.mark.parametrize("name", ["step_size", "num_steps", "divergence_reward", "gradient_clip", "warmup_steps"])
def test_numbers_that_make_no_sense_are_named(name, value):
    if value is None and name == "gradient_clip":
        return
    if isinstance(value, float) and value == -1.0 and name == "divergence_reward":
        return
    assert name in refused(lambda: gymnasium.make_vec(IDS[0], num_envs=4, **{name: value}))


NAMES = ["", " ", LONG, ".:x", "os:x", "::", "a.b:c", "gra", TENSOR, 3, None, ["gar"]]


@pytest.mark.parametrize("value", NAMES, ids=lambda value: f"{type(value).__name__} {str(value)[:6]}")
@pytest.mark.parametrize("name", ["dataset", "network", "reward", "optimizer", "way", "device", "autoreset_mode"])
def test_names_that_nothing_has_are_answered(name, value):
    refused(lambda: gymnasium.make_vec(IDS[0], num_envs=4, **{name: value}))


@pytest.mark.parametrize(
    ("make", "options", "hint"),
    [
        (gymnasium.make_vec, {"num_envs": 4, "batch_size": 3}, "num_envs with make_vec"),
        (gymnasium.make_vec, {"num_envs": 4, "num_env": 3}, "num_envs with make_vec"),
        (gymnasium.make_vec, {"num_envs": 4, "num_step": 3}, "'num_steps'"),
        (gymnasium.make, {"num_envs": 4}, "Pass batch_size instead of num_envs"),
        (gymnasium.make_vec, {"num_envs": 4, "network": "wrn-16-x"}, "wrn-16-2"),
        (gymnasium.make_vec, {"num_envs": 4, "network": "wrn-100000-1"}, "wrn-d-k"),
        (gymnasium.make_vec, {"num_envs": 4, "num_splits": 2**30}, "splits would be empty"),
        (gymnasium.make_vec, {"num_envs": 4, "corrupt": "9" * 5000 + ":easy"}, "Write 'split:name'"),
    ],
)
def test_near_misses_are_told_what_was_meant(make, options, hint):
    assert hint in refused(lambda: make(IDS[0], **options))


ACTIONS = [
    torch.zeros(4, dtype=torch.int64, device="meta"),
    torch.zeros(4, dtype=torch.int64).to_sparse(),
    torch.quantize_per_tensor(torch.zeros(4), 0.1, 0, torch.quint8),
    torch.nested.nested_tensor([torch.zeros(2), torch.zeros(2)]),
    [[1], [2, 3], 4, 5],
    np.zeros(4),
    np.full(4, -1),
    "1234",
    None,
    object(),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("actions", ACTIONS, ids=lambda action: type(action).__name__)
@pytest.mark.parametrize("id", IDS)
def test_actions_that_are_none_are_refused_by_both_views(id, actions):
    for env in (gymnasium.make_vec(id, num_envs=4, network="fc"), gymnasium.make(id, batch_size=4, network="fc")):
        env.unwrapped.reset(seed=0)
        refused(lambda env=env: env.unwrapped.step(actions))


@pytest.mark.parametrize(
    "options",
    ["reset_mask", 3, ["reset_mask"], {"reset_mask": [[1], [2, 3]]}, {"reset_mask": torch.ones(4, device="meta")}],
    ids=str,
)
def test_options_of_reset_that_are_none_are_refused(options):
    env = gymnasium.make_vec(IDS[0], num_envs=4)
    refused(lambda: env.reset(options=options))
    refused(lambda: env.reset(seed=-1))
    refused(lambda: env.reset(seed=2.5))


def linear(**options):
    return lambda shape, classes: nn.Sequential(nn.Flatten(), nn.Linear(64, classes, **options))


class Returns(nn.Module):
    def __init__(self, result):
        super().__init__()
        self.weight, self.result = nn.Parameter(torch.ones(())), result

    def forward(self, x):
        return self.result(x)


kept = linear()((1, 8, 8), 10)
BUILDERS = {
    "no arguments": lambda: nn.Linear(1, 1),
    "nn.Linear": nn.Linear,
    "raises": lambda shape, classes: 1 / 0,
    "returns None": lambda shape, classes: None,
    "wrong width": lambda shape, classes: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)),
    "tuple": lambda shape, classes: Returns(lambda x: (x,)),
    "integers": lambda shape, classes: Returns(lambda x: torch.zeros(len(x), classes, dtype=torch.int64)),
    "sparse": lambda shape, classes: Returns(lambda x: torch.zeros(len(x), classes).to_sparse()),
    "detached": lambda shape, classes: Returns(lambda x: torch.zeros(len(x), classes)),
    "lazy": lambda shape, classes: nn.Sequential(nn.Flatten(), nn.LazyLinear(classes)),
    "meta": linear(device="meta"),
    "complex": linear(dtype=torch.complex64),
    "double": linear(dtype=torch.float64),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("builder", BUILDERS)
def test_builders_of_what_cannot_be_trained_are_refused_when_the_environment_is_made(builder):
    refused(lambda: gymnasium.make_vec(IDS[0], num_envs=4, network=BUILDERS[builder]))


@pytest.mark.parametrize(
    ("options", "size"), [({"network": "cnn_bn"}, (2, 2)), ({"network": "cnn", "num_envs": 1}, (8, 8))]
)
def test_networks_that_do_not_fit_the_images_are_refused_when_the_environment_is_made(options, size):
    images = torch.zeros(20, 1, *size, dtype=torch.uint8)
    data = Dataset("small", images, torch.arange(20) % 2, images, torch.arange(20) % 2, ("a", "b"))
    refused(lambda: gymnasium.make_vec(IDS[0], dataset=data, num_splits=2, **{"num_envs": 4, **options}))


class Pays:
    needs = Need(0)

    def __init__(self, result):
        self.result = result

    def __call__(self, evidence):
        return self.result(evidence.n)


SIGNALS = {
    "no needs": type("NoNeeds", (), {"__call__": lambda self, evidence: torch.zeros(4)})(),
    "needs a string": type("Text", (), {"needs": "TAPE", "__call__": lambda self, evidence: torch.zeros(4)})(),
    "not callable": type("Mute", (), {"needs": Need(0)})(),
    "raises": Pays(lambda n: 1 / 0),
    "sparse": Pays(lambda n: torch.zeros(n).to_sparse()),
    "float8": Pays(lambda n: torch.zeros(n).to(torch.float8_e4m3fn)),
    "beyond float32": Pays(lambda n: torch.full((n,), 1e300, dtype=torch.float64)),
    "column": Pays(lambda n: torch.zeros(n, 1)),
    "integers": Pays(lambda n: torch.zeros(n, dtype=torch.int64)),
}


@pytest.mark.parametrize("signal", SIGNALS)
def test_signals_that_pay_nonsense_are_refused(signal):
    def run():
        env = gymnasium.make_vec(IDS[0], num_envs=4, reward=SIGNALS[signal])
        env.reset(seed=0)
        env.step([0, 1, 2, 3])

    refused(run)


@pytest.mark.parametrize("id", IDS)
def test_a_data_set_as_an_object_works_everywhere(id):
    env = gymnasium.make_vec(id, num_envs=4, dataset=load_dataset("digits"), network="fc")
    env.reset(seed=0)
    env.step(env.action_space.sample())
    assert len(refused(lambda: gymnasium.make_vec(id, num_envs=4, dataset=3.5))) < 200
    assert len(repr(load_dataset("digits"))) < 120


def test_a_corruption_that_returns_nonsense_is_refused():
    if "to_nothing" not in CORRUPTIONS:
        register_corruption("to_nothing")(lambda images, labels, classes, generator: (images, labels + classes))
    assert "to_nothing" in refused(lambda: gymnasium.make_vec(IDS[0], num_envs=4, corrupt="0:to_nothing"))


def test_shares_that_leave_no_example_are_refused():
    images = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    data = Dataset("three", images, torch.tensor([0, 1, 0]), images, torch.tensor([0, 1, 0]), ("a", "b"))
    corrupt = "symmetric_noise(0.5), label_noise(0.3), easy(0.2)"
    said = refused(lambda: gymnasium.make_vec(IDS[1], num_envs=2, dataset=data, network="fc", corrupt=corrupt))
    assert "leaves no example for easy" in said


NETWORK, INPUTS = nn.Linear(4, 2), torch.randn(6, 4)


def squares(outputs):
    return outputs.square().mean(1)


@pytest.mark.parametrize(
    "call",
    [
        lambda: Alignment(None),
        lambda: Alignment("network"),
        lambda: record(NETWORK, INPUTS, None),
        lambda: record(NETWORK, INPUTS, squares, loss_scale="2"),
        lambda: record(NETWORK, INPUTS, squares, loss_scale=np.inf),
        lambda: record(NETWORK, INPUTS, squares, max_overhead="2"),
        lambda: record(NETWORK, INPUTS, lambda outputs: outputs.sum(1).to(torch.complex64)),
        lambda: record(NETWORK, INPUTS, lambda outputs: outputs.sum(1).to_sparse()),
        lambda: align(None, {}),
        lambda: aligning("tape").__enter__(),
        lambda: example_lengths(TENSOR),
        lambda: align(record(NETWORK, INPUTS, squares), {f"x{i}": TENSOR for i in range(300)}),
        lambda: build_network("fc", (1, 8, 8), 0),
        lambda: build_network("cnn", (1, 8), 3),
        lambda: build_network("fc", None, 3),
        lambda: Reinforce(InvertedSoftmax(3), aggregate=1.5),
        lambda: Reinforce(InvertedSoftmax(3), aggregate=np.nan),
        lambda: Reinforce(InvertedSoftmax(3), step_size=np.inf),
        lambda: Reinforce(InvertedSoftmax(3), step_size="x"),
        lambda: Reinforce(InvertedSoftmax(3), seed=-1),
        lambda: Reinforce(InvertedSoftmax(3)).act(None),
        lambda: FixedPolicy([np.nan, 1]),
        lambda: FixedPolicy.uniform(0),
        lambda: FixedPolicy.never(3, [7]),
        lambda: load_dataset(LONG),
        lambda: load_dataset(3),
        lambda: load_dataset("a\0b"),
        lambda: load_dataset("~nosuchuser/x.npz"),
        lambda: load_dataset("/dev/null"),
    ],
)
def test_the_library_refuses_in_its_own_words(call):
    refused(call)


@pytest.mark.parametrize(
    "rewards", [np.zeros((4, 1)), np.zeros(3), np.zeros(()), "x", None, np.full(4, np.nan), TENSOR]
)
def test_rewards_that_are_not_one_per_slot_are_refused(rewards):
    env = gymnasium.make_vec(IDS[0], num_envs=4)
    agent = Reinforce(InvertedSoftmax(10))
    agent.begin(env)
    agent.act(None)
    refused(lambda: agent.learn(rewards, False, {}))


def test_a_tape_is_read_by_one_block_at_a_time():
    tape = record(NETWORK, INPUTS, squares)
    NETWORK.zero_grad()

    def nested():
        with aligning(tape), aligning(tape):
            pass

    assert "enclosing aligning" in refused(nested)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_steps": "x"}, "n_steps='x' must be int"),
        ({"hidden": -1}, "hidden=-1 must be a tuple of int"),
        ({"hidden": (1, "a")}, "must be a tuple of int"),
        ({"n_epochs": 10**12}, "n_epochs=1000000000000 must be int, below"),
        ({"n_epochs": 10**6}, "n_epochs=1000000 must be at most 1000"),
        ({"gamma": torch.zeros(2)}, "gamma=a torch.float32 Tensor"),
        ({"ent_coef": None}, "ent_coef=None must be float"),
        ({"learning_rate": float("nan")}, "learning_rate=nan must be float, finite"),
    ],
)
def test_options_of_controllers_have_types_and_bounds(options, message):
    from agents.controllers.stable_baselines import PPOOptions

    env = gymnasium.make_vec("GAR/DataSplit-v0", num_envs=4, num_steps=3)
    with pytest.raises(ConfigurationError, match=message):
        PPOOptions(**options).build(env, 0)


@pytest.mark.parametrize("built", [None, "x"])
def test_a_controller_that_is_none_is_named(built):
    from agents.training.loops import start_session

    with pytest.raises(ConfigurationError, match=r"build returned .*; expected an agents.Agent"):
        start_session(gymnasium.make_vec("GAR/DataSplit-v0", num_envs=4, num_steps=3), lambda env, seed: built, 0)


def test_a_controller_that_is_registered_without_options_is_named(capsys):
    from agents.cli import main
    from agents.controllers import CONTROLLERS

    CONTROLLERS.register("test_three")(3)  # pyright: ignore
    with pytest.raises(SystemExit):
        main(["train", "--agent", "test_three"])
    assert "'test_three' is registered with 3; expected a dataclass of options" in capsys.readouterr().err


def test_a_run_that_cannot_be_saved_says_what_to_leave_out(tmp_path):
    from agents.training.checkpoints import save_checkpoint

    with pytest.raises(CheckpointError, match=r"<unlocked _thread.lock object at .*> is no data"):
        save_checkpoint(tmp_path / "checkpoint.gar", {}, {"lock": threading.Lock()})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{"learning_starts": -1}, {"exploration_fraction": -1.0}])
def test_shares_of_a_schedule_are_shares(options):
    from agents.controllers.stable_baselines import DQNOptions

    env = gymnasium.make_vec("GAR/DataSplit-v0", num_envs=4, num_steps=3, autoreset_mode="SameStep")
    with pytest.raises(ConfigurationError, match="must be"):
        DQNOptions(**options).build(env, 0)


@pytest.mark.parametrize("way", ["auto", "hooks", "forward", "finite_difference"])
def test_a_layer_whose_weight_is_a_plain_tensor_is_replayed(way):
    network = nn.Linear(4, 3)
    weight = network.weight.detach().clone()
    del network.weight
    network.weight = weight  # pyright: ignore
    x, direction = torch.randn(6, 4), {"bias": torch.tensor([1.0, 2.0, 3.0])}
    found = align(record(network, x, lambda output: output.square().sum(1), way=way), direction)
    expected = (2 * (x @ weight.T + network.bias) * direction["bias"]).sum(1).detach()
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"momentum": 2}, "momentum=2 must be"), ({"weight_decay": float("nan")}, "weight_decay=nan must be at least 0")],
)
def test_a_learner_that_cannot_learn_is_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        Learner(lambda: nn.Linear(2, 2), TrainingOptions(**options), seed=0, num_steps=1)


@pytest.mark.parametrize("labels", [torch.full((3,), -100), torch.zeros(3), torch.zeros(0, dtype=torch.int64)])
def test_labels_that_are_none_are_refused(labels):
    learner = Learner(lambda: nn.Linear(2, 2), seed=0, num_steps=1)
    with pytest.raises(ConfigurationError, match="expected labels from 0"):
        learner.run(Batch(torch.ones(len(labels), 2), labels))


@pytest.mark.parametrize("odd", [float("nan"), -0.1, 2.0])
def test_chances_of_an_augmentation_policy_are_chances(odd):
    policy = OnlineAugmentation(SPACES["wl"])
    for part in range(3):
        parts = [one.clone() for one in policy.distribution()]
        parts[part].view(-1)[0] = odd
        with pytest.raises(ConfigurationError, match="are no chances"):
            policy.set_distribution(*parts)
    policy.set_distribution(*policy.distribution())
