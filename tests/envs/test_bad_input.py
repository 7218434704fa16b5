"""Bad input to the data-split environment: one clear error each."""

import numpy as np
import pytest
import torch

from gar_env.alignment import align
from gar_env.envs import DataSplitVectorEnv
from gar_env.errors import (
    ClosedEnvironmentError,
    ConfigurationError,
    DatasetNotFoundError,
    DeviceError,
    InvalidActionError,
    NonFiniteObservationError,
    ResetNeededError,
    RewardError,
    UnknownNameError,
)
from gar_env.rewards import REWARDS, Need, RewardSignal, register_reward
from rollouts import N, make, rollout


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dataset": "digts"}, UnknownNameError, r"No data set is called 'digts'. Did you mean 'digits'\?"),
        ({"dataset": "no/file.npz"}, DatasetNotFoundError, "Nothing at no/file.npz"),
        ({"reward": "valdation"}, UnknownNameError, "No reward signal is called 'valdation'"),
        ({"reward_timing": "late"}, ConfigurationError, "Choose one of same_step, next_step"),
        (
            {"reward_timing": "next_step", "reference": "policy"},
            ConfigurationError,
            "reference='policy' has no meaning",
        ),
        ({"reference": "heldout", "heldout_share": 0}, ConfigurationError, "needs heldout_share above 0"),
        ({"reference": "clean"}, ConfigurationError, "Choose one of policy, uniform, heldout"),
        ({"batch_norm": "shar"}, ConfigurationError, r"Did you mean 'share'\?"),
        ({"num_steps": 0}, ConfigurationError, "num_steps=0 must be at least 1"),
        ({"divergence_reward": float("nan")}, ConfigurationError, "divergence_reward=nan must be float, finite"),
        ({"corrupt": "12:easy"}, ConfigurationError, "corrupt names split 12, but there are 10 splits"),
        ({"inputs": "raw"}, ConfigurationError, "Choose one of unit, symmetric, standardised"),
        (
            {"num_envs": 1438},
            ConfigurationError,
            "A batch of 1438 examples is larger than the training data: digits has 1437",
        ),
        ({"num_envs": 1400, "heldout_share": 0.5}, ConfigurationError, "has 719 beside the held-out part"),
        ({"num_envs": 0}, ConfigurationError, "num_envs=0 must be a whole number, at least 1"),
        ({"num_envs": 2.5}, ConfigurationError, "num_envs=2.5 must be a whole number"),
        ({"num_envs": 1}, ConfigurationError, "normalises over the batch, which needs at least 2 examples"),
        ({"num_steps": 2.5}, ConfigurationError, "num_steps=2.5 must be int"),
        ({"num_steps": True}, ConfigurationError, "num_steps=True must be int"),
        ({"step_size": float("inf")}, ConfigurationError, "step_size=inf must be float, finite"),
        ({"momentum": 1.5}, ConfigurationError, "momentum=1.5 must be at least 0 and below 1"),
        ({"weight_decay": -1.0}, ConfigurationError, "weight_decay=-1.0 must be at least 0"),
        ({"network": None}, ConfigurationError, "network=None must be str"),
        ({"reward": 3}, ConfigurationError, "reward=3 must be str"),
        ({"download": "yes"}, ConfigurationError, "download='yes' must be bool"),
        ({"dataset": ""}, ConfigurationError, "dataset is empty"),
        ({"max_episode_steps": 3}, ConfigurationError, "Pass num_steps instead of max_episode_steps"),
        ({"device": "meta"}, DeviceError, "Only the CPU and CUDA devices are supported"),
        ({"device": "cuda:9"}, DeviceError, "device='cuda:9' is not there: .* Available: cpu"),
        ({"device": "gpu"}, DeviceError, "device='gpu' is not there"),
        ({"output": "jax"}, ConfigurationError, "output='jax' is unknown"),
        ({"render_mode": "human"}, ConfigurationError, "render_mode='human' is unknown"),
        ({"autoreset_mode": "never"}, ConfigurationError, "Choose one of NextStep, SameStep, Disabled"),
        ({"num_stpes": 3}, ConfigurationError, r"There is no option 'num_stpes'. Did you mean 'num_steps'\?"),
    ],
)
def test_an_environment_that_cannot_be_says_why_when_it_is_made(options, error, message):
    with pytest.raises(error, match=message):
        make(**options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"network": "fc_nb"}, UnknownNameError, r"Did you mean 'fc_bn'\?"),
        ({"optimizer": "sdg"}, UnknownNameError, r"Did you mean 'sgd'\?"),
        ({"step_size": -1.0}, ConfigurationError, "step_size=-1.0 must be above 0"),
        ({"schedule": "stairs"}, ConfigurationError, "Choose one of constant, cosine, linear"),
        ({"warmup_steps": 99}, ConfigurationError, "warmup_steps=99 must be between 0 and the 8 SGD steps"),
        ({"optimizer": "adam", "momentum": 0.5}, ConfigurationError, "has no momentum option"),
    ],
)
def test_a_training_run_that_cannot_be_says_why_when_the_environment_is_made(options, error, message):
    with pytest.raises(error, match=message):
        make(**options)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros((N, 1), int), r"actions have the shape \[12, 1\]; expected \[12\]"),
        (np.zeros(N - 1, int), r"actions have the shape \[11\]; expected \[12\]"),
        (0, r"actions have the shape \[\]; expected \[12\]"),
        (np.zeros(N), r"actions are torch.float64; expected integers"),
        (np.zeros(N, bool), r"actions are torch.bool; expected integers"),
        (np.array([0] * 11 + [10]), r"The action of row 11 is 10; expected 0..9. 1 of 12 entries"),
        (np.array([-1] + [0] * 11), r"The action of row 0 is -1; expected 0..9"),
        (["left"] * N, "actions cannot be read as an array of integers"),
        (None, "actions cannot be read as an array of integers"),
    ],
)
def test_actions_that_do_not_fit_say_why_and_change_nothing(actions, message):
    env = make()
    env.reset(seed=0)
    with pytest.raises(InvalidActionError, match=message):
        env.step(actions)
    assert env.unwrapped.learner.steps == 0


def test_calls_at_the_wrong_time_say_what_to_do():
    env = make(num_steps=1, autoreset_mode="disabled")
    with pytest.raises(ResetNeededError, match=r"step\(\) was called before reset\(\)"):
        env.step([0] * N)
    with pytest.raises(ResetNeededError, match=r"evaluate\(\) was called before reset\(\)"):
        env.unwrapped.evaluate()
    env.reset(seed=0)
    env.step([0] * N)
    with pytest.raises(ResetNeededError, match="The episode has ended and autoreset is disabled"):
        env.step([0] * N)
    env.close()
    for call in (lambda: env.step([0] * N), env.reset, env.render):
        with pytest.raises(ClosedEnvironmentError, match="This environment is closed"):
            call()


def test_a_reset_mask_that_leaves_out_rows_is_refused():
    env = make(autoreset_mode="Disabled")
    mask = np.ones(N, bool)
    env.reset(seed=0, options={"reset_mask": mask})
    mask[3] = False
    with pytest.raises(ConfigurationError, match="leaves out 1 of 12 rows, but all rows share one network"):
        env.reset(options={"reset_mask": mask})
    with pytest.raises(ConfigurationError, match=r"must be bool \[12\]; found int64 \[12\]"):
        env.reset(options={"reset_mask": np.ones(N, int)})


def test_a_nan_feature_is_refused_and_named():
    class Broken(DataSplitVectorEnv):
        def columns(self):
            columns = super().columns()
            columns[3] = columns[3].clone()
            columns[3][3, 2] = torch.nan
            return columns

    with pytest.raises(
        NonFiniteObservationError, match="The observation features usage_2 are NaN or infinite in 1 of 12"
    ):
        Broken(N).reset(seed=0)


@pytest.fixture
def signal():
    """Register a signal for one test."""
    names = []

    def register(pay, needs=Need.NEXT_LOSS):
        names.append(f"test_signal_{len(names)}")

        @register_reward(names[-1])
        class Signal(RewardSignal):
            def __call__(self, evidence):
                return pay(evidence)

        Signal.needs = needs
        return names[-1]

    yield register
    for name in names:
        del REWARDS._objects[name]


def test_a_signal_is_given_what_it_asked_for_and_nothing_else(signal):
    seen = []

    def pay(evidence):
        seen.append(evidence)
        return align(evidence.tape, evidence.heldout_gradient)

    env = make(reward=signal(pay, Need.TAPE | Need.HELDOUT_GRADIENT))
    rollout(env, 2)
    assert len(env.unwrapped.splits.heldout) == 143
    assert vars(seen[0])["next_gradient"] is None
    assert env.unwrapped.learner.steps == 4, "the held-out batch is not trained on"


@pytest.mark.parametrize(
    ("pay", "message"),
    [
        (lambda e: torch.zeros(3), r"returned torch.float32 \[3\]; expected floating point \[12\]"),
        (lambda e: torch.zeros(e.n, dtype=torch.long), r"returned torch.int64 \[12\]"),
        (lambda e: 0.0, "returned float"),
        (lambda e: torch.full((e.n,), torch.nan), "returned NaN or infinity for 12 of 12 rows in step 1"),
        (lambda e: torch.zeros(e.n, device="meta"), "returned a tensor on meta; expected cpu"),
    ],
)
def test_a_signal_that_pays_wrongly_is_named(signal, pay, message):
    env = make(reward=signal(pay))
    env.reset(seed=0)
    with pytest.raises(RewardError, match=r"Reward signal 'test_signal_0' " + message):
        env.step([0] * N)
