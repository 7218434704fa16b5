"""On a GPU, environments train the same each time, whatever runs beside them; recurrent layers and attention too."""

from __future__ import annotations

import threading
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import gar_env  # noqa: F401 - registers the environments
from agents.policies import KeepHighest
from agents.step_sizes import Controlled, RepsAgent, Scheduled, StepSizeController
from gar_env.alignment import align, record
from gar_env.errors import AlignmentError, UnsupportedLayerError

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
N, STEPS = 24, 6
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "split": ("GAR/DataSplit-v0", {}),
    "split, next step": ("GAR/DataSplit-v0", {"reward_timing": "next_step"}),
    "split, nslr": ("GAR/DataSplit-v0", {"reward": "nslr"}),
    "weight": ("GAR/DataWeight-v0", {}),
    "augment": ("GAR/Augment-v0", {"network": "fc_bn"}),
    "step size": ("GAR/StepSize-v0", {"instances": "fixed", "network": "mlp-8", "reward": "gar"}),
    "step size, convolutions": ("GAR/StepSize-v0", {"instances": "fixed", "network": "cpcpcrcs-2-3-4", "rule": "adam"}),
}


@pytest.fixture(autouse=True)
def whole_float32():
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def rewards(name: str, device: str, **options: Any) -> np.ndarray:
    """``[STEPS, N]``."""
    env_id, own = CASES[name]
    env = gymnasium.make_vec(env_id, num_envs=N, num_steps=STEPS, dataset="digits", device=device, **own | options)
    env.reset(seed=1)
    env.action_space.seed(1)
    found = np.stack([np.asarray(env.step(env.action_space.sample())[1]) for _ in range(STEPS)])
    env.close()
    return found


@pytest.mark.parametrize("name", CASES)
def test_threads_and_an_outer_autocast_change_nothing(name):
    expected, found = rewards(name, "cuda"), {}

    def run(i: int) -> None:
        with torch.autocast("cuda"):
            found[i] = rewards(name, "cuda")

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for one in found.values():
        np.testing.assert_allclose(one, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("network", ["cnn_bn", "wrn-10-1"])
def test_convolutions_in_half_precision_and_channels_last_learn(network):
    found = rewards("split", "cuda", network=network, precision="bfloat16", channels_last=True)
    assert np.isfinite(found).all()
    assert np.abs(found[1:]).max() > 0


def losses(output: torch.Tensor) -> torch.Tensor:
    return output.flatten(1).square().mean(1)


def entries(network: nn.Module, x: torch.Tensor, way: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Found, and by one backward pass per example of the same forward pass."""
    direction = {name: torch.randn_like(p) for name, p in network.named_parameters()}
    state = torch.cuda.get_rng_state()
    found = align(record(network, x, losses, way=way), direction)
    torch.cuda.set_rng_state(state)
    parameters = dict(network.named_parameters())
    expected = []
    for loss in losses(network(x)):
        gradients = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True)
        expected.append(sum((direction[k] * g).sum() for k, g in zip(parameters, gradients, strict=True)))
    return found, torch.stack(expected)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], dropout: float) -> None:
        super().__init__()
        self.layer, self.head = kind(4, 5, 2, batch_first=True, dropout=dropout), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x)[0])


@pytest.mark.parametrize("way", ["hooks", "forward"])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_without_dropout_are_right(kind, way):
    found, expected = entries(Recurrent(kind, 0.0).cuda(), torch.randn(6, 7, 4, device="cuda"), way)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("way", ["hooks", "forward", "finite_difference"])
def test_dropout_of_cudnn_is_refused_and_the_remedies_work(way):
    x = torch.randn(6, 7, 4, device="cuda")
    with pytest.raises(UnsupportedLayerError, match=r"cuDNN draws from a state of its own.*No way covers it"):
        entries(Recurrent(nn.LSTM, 0.3).cuda(), x, way)
    with torch.backends.cudnn.flags(enabled=False):
        found, expected = entries(Recurrent(nn.LSTM, 0.3).cuda(), x, way)
    close = 0.1 if way == "finite_difference" else 1e-3
    torch.testing.assert_close(found, expected, rtol=close, atol=close * float(expected.abs().max()))


@pytest.mark.parametrize("way", ["auto", "forward"])
def test_dropout_of_fused_attention_is_refused_and_the_remedies_work(way):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 16, 0.2, batch_first=True)
    network, x = nn.Sequential(layer, nn.Linear(16, 2)).cuda(), torch.randn(6, 8, 16, device="cuda")
    with pytest.raises(AlignmentError, match=r"SDPBackend.MATH"):
        entries(network, x, way)
    found, expected = entries(network, x, "finite_difference")
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.1 * float(expected.abs().max()))
    with sdpa_kernel(SDPBackend.MATH):
        found, expected = entries(network, x, way)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("rule", ["sgd", "momentum", "rmsprop", "adam"])
@pytest.mark.parametrize("network", ["mlp-16", "cpcpcrcs-4-8-16"])
def test_runs_do_what_they_do_on_the_cpu_but_for_rounding(rule, network):
    found = {}
    for device in ("cpu", "cuda"):
        options = {"network": network, "rule": rule, "observed": "all", "instances": "fixed", "num_steps": 30}
        options["autoreset_mode"] = "SameStep"
        starts = (1e-3, 1e-2) if rule in ("sgd", "momentum") else (1e-4, 1e-3)
        env = gymnasium.make_vec("GAR/StepSize-v0", num_envs=2, device=device, initial_step_sizes=starts, **options)
        seen = [env.reset(seed=3)[0]]
        for step in range(30):
            observations, rewards, _, _, infos = env.step(np.full((2, 1), 0.1 * (-1) ** step, np.float32))
            seen.append(observations)
            assert np.isfinite(rewards).all()
        found[device] = np.stack(seen[:-1]), infos["final_info"]["final_loss"]
    for cpu, cuda in zip(*found.values(), strict=True):
        np.testing.assert_allclose(cuda, cpu, rtol=5e-3, atol=5e-3)


def test_runs_on_a_gpu_go_on_from_their_state():
    def made():
        return gymnasium.make_vec("GAR/StepSize-v0", num_envs=6, device="cuda", autoreset_mode="SameStep").unwrapped

    env, other = made(), made()
    env.reset(seed=0)
    still = np.zeros((6, 1), np.float32)
    for _ in range(40):
        env.step(still)
    other.load_state_dict(env.state_dict())
    for _ in range(20):
        for ours, theirs in zip(env.step(still)[:3], other.step(still)[:3], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_controllers_steer_runs_on_a_gpu():
    options = {"device": "cuda", "action": "absolute", "observed": "all", "autoreset_mode": "SameStep"}
    env = gymnasium.make_vec("GAR/StepSize-v0", num_envs=12, instances="fixed", num_steps=20, **options)
    for agent in (RepsAgent("relative"), Scheduled("cosine"), Controlled(StepSizeController("direction", (0.0,) * 5))):
        observations, _ = env.reset(seed=0)
        agent.begin(env)
        for _ in range(41):
            observations, rewards, terminations, truncations, infos = env.step(agent.act(observations))
            agent.learn(rewards, terminations | truncations, infos)
        assert np.isfinite(observations).all()


TASKS = {"tasks": "digits", "ways": 3, "shots": 2, "queries": 2, "rotations": True, "network": "conv4-8-strided"}


@pytest.mark.parametrize("options", [{}, TASKS], ids=["sine", "digits"])
@pytest.mark.parametrize("algorithm", ["fomaml", "maml", "reptile"])
@pytest.mark.parametrize("rule", ["uniform", "damped(0.1)"])
def test_tasks_are_adapted_to_as_on_the_cpu_but_for_rounding(options, algorithm, rule):
    found = {}
    own = {"corrupt": "random_labels(0.3)" if options else "noise(0.3)", "rule": rule, "reward": "next_update"}
    for device in ("cpu", "cuda"):
        env = gymnasium.make_vec(
            "GAR/GradientAgreement-v0", num_envs=5, device=device, algorithm=algorithm, num_steps=4, test_tasks=20,
            optimizer="sgd", step_size=0.01, autoreset_mode="SameStep", **options, **own,
        )  # fmt: skip
        seen = [env.reset(seed=3)[0]]
        for _ in range(4):
            observations, rewards, _, _, infos = env.step(np.array([1, 1, 0, 1, 1]))
            seen.append(observations)
            assert np.isfinite(rewards).all()
        found[device] = np.stack(seen[:-1])[:, :, :6], infos["final_info"]["test_loss"]
    for cpu, cuda in zip(*found.values(), strict=True):
        np.testing.assert_allclose(cuda, cpu, rtol=2e-2, atol=5e-3)


def test_controllers_weigh_tasks_on_a_gpu_and_states_go_on():
    options = {"device": "cuda", "output": "torch", "num_steps": 8, "inner_optimizer": "adam", "corrupt": "noise(0.3)"}
    env, other = (gymnasium.make_vec("GAR/GradientAgreement-v0", num_envs=6, **options).unwrapped for _ in range(2))
    agent = KeepHighest("inner_gar", 0.3)
    observations, _ = env.reset(seed=0)
    agent.begin(env)
    for _ in range(3):
        observations, *_ = env.step(agent.act(observations))
    other.load_state_dict(env.state_dict())
    actions = agent.act(observations)
    for ours, theirs in zip(env.step(actions)[:2], other.step(actions)[:2], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_children_train_as_on_the_cpu():
    """The grouped interpreter beside the loop; sums are taken in another order there, so not bit for bit."""
    from gar_env.optimizers import Grammar, Rule
    from gar_env.optimizers.child_options import ChildOptions
    from gar_env.optimizers.children import Children
    from gar_env.optimizers.screen import SharedTrajectory
    from random_rules import random_rules

    options = ChildOptions(epochs=1, step_sizes=(1e-2, 1e-1))
    rules = [Rule("Adam"), Rule("PowerSign"), Rule("drop(m, 0.3) + noise"), *random_rules(20, Grammar(2), seed=3)]
    there, here = (Children(options, device) for device in ("cuda", "cpu"))
    scores = [SharedTrajectory(children, 0).scores(rules) for children in (there, here)]
    torch.testing.assert_close(scores[0], scores[1], atol=0.02, rtol=0.0)
    for one, other in zip(there.train(rules[:3], [0]), here.train(rules[:3], [0]), strict=True):
        assert one.validation_accuracy == pytest.approx(other.validation_accuracy, abs=0.03)
    together, alone = there.train(rules, [0]), there.train([rules[0]], [0])
    assert together[0].validation_accuracy == pytest.approx(alone[0].validation_accuracy, abs=0.03)


def test_an_optimizer_search_runs_and_exports():
    import gymnasium

    env = gymnasium.make_vec(
        "GAR/OptimizerSearch-v0", num_envs=8, device="cuda", output="torch", encoding="flat", epochs=1, child_seeds=1
    )
    env.reset(seed=0)
    env.action_space.seed(0)
    rewards = env.step(env.action_space.sample())[1]
    assert rewards.device.type == "cuda"
    network = torch.nn.Linear(3, 2, device="cuda")
    optimizer = env.unwrapped.rules[0].to_optimizer(network.parameters(), lr=0.01)
    network(torch.randn(4, 3, device="cuda")).sum().backward()
    optimizer.step()
