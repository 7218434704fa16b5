import warnings
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from agents import FixedPolicy, InvertedSoftmax, LinearSoftmax, Reinforce, train
from gar_env.errors import ConfigurationError, RewardError
from gar_env.state import as_data, from_data
from walks import WalksVectorEnv

LOGITS = torch.tensor([1.5, -0.3, 0.2, 0.0], dtype=torch.float64)


def test_the_policy_is_the_papers_inverted_softmax():
    policy = InvertedSoftmax(4)
    with torch.no_grad():
        policy.logits.copy_(LOGITS)
    exponentials = np.exp(LOGITS.numpy())
    golden = (1 - exponentials / exponentials.sum()) / 3
    np.testing.assert_allclose(policy.probabilities().numpy(), golden, rtol=1e-6)
    np.testing.assert_allclose(policy.log_probabilities(LOGITS).exp().numpy(), golden, rtol=1e-6)
    np.testing.assert_allclose(policy.keep().numpy(), 3 * golden, rtol=1e-6)
    draws = policy.sample(200_000, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(np.bincount(draws) / 200_000, golden, atol=5e-3)


def test_log_probabilities_stay_finite_and_differentiable_at_extreme_logits():
    logits = torch.tensor([90.0, 0.0, -90.0], requires_grad=True)
    log_probabilities = InvertedSoftmax(3).log_probabilities(logits)
    log_probabilities.sum().backward()
    assert log_probabilities.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def fake_env(n, choices):
    return SimpleNamespace(num_envs=n, unwrapped=None, single_action_space=gymnasium.spaces.Discrete(choices))


def bandit(agent, pay, steps, delay=0, n=64):
    """Pay ``pay(actions)`` for each step, ``delay`` steps late."""

    agent.begin(fake_env(n, len(agent.policy.logits)))
    taken = []
    for _ in range(steps):
        taken.append(agent.act(None))
        due = len(taken) - 1 - delay
        agent.learn(pay(taken[due]) if due >= 0 else torch.zeros(n), False, {})


@pytest.mark.parametrize(("timing", "delay"), [("same_step", 0), ("next_step", 1)])
@pytest.mark.parametrize("normalise", ["step", "running", "none"])
def test_reinforce_leaves_the_choice_that_pays_least(timing, delay, normalise):
    agent = Reinforce(InvertedSoftmax(5), reward_timing=timing, normalise=normalise)
    bandit(agent, lambda actions: -(actions == 3).double() + 0.5, steps=120, delay=delay)
    assert agent.policy.probabilities()[3] < 0.01
    assert agent.policy.probabilities()[[0, 1, 2, 4]].min() > 0.2


def test_a_reward_paid_for_the_wrong_actions_teaches_nothing():
    """The control that must fail: late rewards taken for punctual ones."""
    agent = Reinforce(InvertedSoftmax(5), reward_timing="same_step")
    bandit(agent, lambda actions: -(actions == 3).double(), steps=120, delay=1)
    assert agent.policy.probabilities()[3] > 0.1


def test_one_update_is_adam_on_the_summed_score_function_estimate():
    agent = Reinforce(InvertedSoftmax(4), normalise="none", aggregate=2, step_size=0.1, seed=5)
    reference = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.Adam([reference], lr=0.1)
    rewards = [torch.randn(8), torch.randn(8)]

    agent.begin(fake_env(8, 4))
    objective = torch.zeros(())
    for reward in rewards:
        assert torch.equal(agent.policy.logits, torch.zeros(4)), "no step before two are collected"
        actions = agent.act(None)
        log_p = torch.log((1 - torch.softmax(reference, 0)) / 3)
        objective = objective + sum(r * log_p[a] for r, a in zip(reward, actions, strict=True))
        agent.learn(reward, False, {})
    (-objective).backward()
    optimizer.step()
    torch.testing.assert_close(agent.policy.logits, reference)


def test_late_rewards_use_the_logits_that_the_actions_were_drawn_with():
    agent = Reinforce(InvertedSoftmax(3), reward_timing="next_step", normalise="none")

    agent.begin(fake_env(4, 3))
    agent.act(None)
    agent.learn(torch.zeros(4), False, {})
    kept_actions, kept_logits, *_ = agent._unpaid[0]
    with torch.no_grad():
        agent.policy.logits.copy_(torch.tensor([2.0, 0.0, -2.0]))
    agent.act(None)
    agent.learn(torch.ones(4), False, {})
    assert torch.equal(kept_logits, torch.zeros(3))
    assert kept_actions.shape == (4,)


def test_running_normalisation_keeps_a_reward_that_all_slots_share():
    agent = Reinforce(InvertedSoftmax(3), normalise="running")
    values = [torch.full((4,), v) for v in (1.0, 3.0, 8.0)]
    for value in values:
        found = agent.normaliser(value, len(value))
    seen = torch.cat(values)
    torch.testing.assert_close(found, (values[-1] - seen.mean()) / seen.std(correction=0))


@pytest.mark.parametrize("value", [1.0, -2.3, -1.7, 1e-12, 1e6])
@pytest.mark.parametrize("n", [4, 128, 1000])
def test_step_normalisation_erases_a_reward_that_all_slots_share(value, n):
    """A float32 mean of equal numbers misses them by a rounding, which must not be scaled up to 1."""
    normalised = Reinforce(InvertedSoftmax(3), normalise="step").normaliser(torch.full((n,), value), n)
    assert normalised.abs().max() == 0


@pytest.mark.parametrize(("timing", "expected"), [("same_step", 3 + 3), ("next_step", 2 + 2)])
@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_over_two_episodes_only_valid_rewards_are_learned_from(timing, expected, mode):
    env = gymnasium.make_vec(
        "GAR/DataSplit-v0", num_envs=8, num_steps=3, reward_timing=timing, autoreset_mode=mode, reward="nslr"
    )
    agent = Reinforce(InvertedSoftmax(10), reward_timing=timing, normalise="none", aggregate=1000)
    observations, _ = env.reset(seed=0)
    agent.begin(env)
    for _ in range(7 if mode == "NextStep" else 6):
        observations, rewards, terminations, truncations, infos = env.step(agent.act(observations))
        agent.learn(rewards, terminations | truncations, infos)
    assert agent._collected == expected


@pytest.mark.parametrize("timing", ["same_step", "next_step"])
@pytest.mark.parametrize("output", ["numpy", "torch"])
def test_the_controller_finds_the_noisy_split(timing, output):
    env = gymnasium.make_vec("GAR/DataSplit-v0", num_envs=128, num_steps=300, reward_timing=timing, output=output)
    agent = Reinforce(InvertedSoftmax(10), reward_timing=timing)
    seen = []
    infos = train(env, agent, seed=0, on_step=lambda rewards, infos: seen.append(type(rewards)))
    assert int(agent.policy.probabilities().argmin()) == 0
    assert agent.policy.probabilities()[0] < 0.02
    assert env.unwrapped.usage[0] < 0.06, "uniform sampling draws 0.10 from it"
    assert infos["test_accuracy"][0] > 0.9
    assert set(seen) == {np.ndarray if output == "numpy" else torch.Tensor}
    assert len(seen) == 300


def test_the_same_seeds_give_the_same_policy():
    def learned():
        agent = Reinforce(InvertedSoftmax(10), seed=3)
        train(gymnasium.make_vec("GAR/DataSplit-v0", num_envs=32, num_steps=10), agent, seed=3)
        return agent.policy.logits.detach()

    assert torch.equal(learned(), learned())


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_train_runs_one_episode_in_each_autoreset_mode(mode):
    env = gymnasium.make_vec("GAR/DataSplit-v0", num_envs=8, num_steps=3, autoreset_mode=mode)
    for _ in range(2):
        infos = train(env, FixedPolicy.uniform(10), seed=0)
        assert infos["_test_accuracy"].all()


def test_fixed_policies_draw_what_they_say():
    class Env:
        num_envs = 9000

    uniform, oracle = FixedPolicy.uniform(5, seed=1), FixedPolicy.never(5, [0, 3], seed=1)
    for policy, expected in ((uniform, [0.2] * 5), (oracle, [0, 1 / 3, 1 / 3, 0, 1 / 3])):
        policy.begin(Env())
        np.testing.assert_allclose(np.bincount(policy.act(None), minlength=5) / 9000, expected, atol=0.02)


def test_a_controller_that_expects_rewards_at_another_time_is_refused():
    env = gymnasium.make_vec("GAR/DataSplit-v0", num_envs=8, num_steps=3, reward_timing="next_step")
    with pytest.raises(ConfigurationError, match="Build Reinforce with reward_timing='next_step'"):
        train(env, Reinforce(InvertedSoftmax(10)), seed=0)


def test_a_policy_with_another_number_of_choices_is_refused():
    env = gymnasium.make_vec("GAR/DataSplit-v0", num_envs=8, num_steps=3)
    with pytest.raises(
        ConfigurationError, match=r"The policy's action is Discrete\(5\), the environment's Discrete\(10\)"
    ):
        train(env, Reinforce(InvertedSoftmax(5)), seed=0)


def test_rewards_that_are_nan_are_refused():
    agent = Reinforce(InvertedSoftmax(3))
    agent.begin(fake_env(4, 3))
    agent.act(None)
    with pytest.raises(RewardError, match="1 of 4 rewards are NaN"):
        agent.learn(torch.tensor([0.0, 1.0, torch.nan, 2.0]), False, {})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Reinforce(InvertedSoftmax(3), normalise="batch"), "Choose one of step, running, size, none"),
        (lambda: Reinforce(InvertedSoftmax(3), aggregate=0), "aggregate=0 must be at least 1"),
        (lambda: Reinforce(InvertedSoftmax(3), reward_timing="now"), "Choose one of same_step, next_step"),
        (lambda: InvertedSoftmax(1), "num_choices=1: a policy needs at least 2 choices"),
        (lambda: FixedPolicy([0.5, 0.6]), "sum 1.1"),
        (lambda: FixedPolicy([-1, 2]), "must be non-negative"),
        (lambda: FixedPolicy.never(2, [0, 1]), "sum 0"),
    ],
)
def test_controllers_that_cannot_be_say_why(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


class Sways:
    """Acts by turns, and learns nothing."""

    def __init__(self):
        self.steps = 0

    def begin(self, env):
        self.env = env

    def act(self, observations):
        self.steps += 1
        return np.full(self.env.num_envs, self.steps % 2)

    def learn(self, rewards, ended, infos):
        assert rewards.shape == (self.env.num_envs,)


@pytest.mark.parametrize("mode", ["vector_entry_point", "sync"])
def test_train_returns_when_each_of_eight_poles_has_fallen(mode):
    agent = Sways()
    train(gymnasium.make_vec("CartPole-v1", num_envs=8, vectorization_mode=mode), agent, seed=0)
    assert 8 < agent.steps < 500


@pytest.mark.parametrize("autoreset", ["NextStep", "SameStep"])
def test_train_keeps_what_each_row_said_when_it_first_ended(autoreset):
    rows = WalksVectorEnv(5, autoreset_mode=autoreset)
    seen = []
    final = train(rows, Sways(), seed=0, on_step=lambda rewards, infos: seen.append(infos))
    assert final["_place"].all()
    ends = {}
    for infos in seen:
        own = infos.get("final_info", infos)
        for row in range(rows.num_envs):
            if row not in ends and float(own["place"][row]) == float(final["place"][row]):
                ends[row] = len(ends)
    assert sorted(ends) == list(range(rows.num_envs))


def test_a_step_that_only_resets_teaches_nothing_where_infos_do_not_say_so():
    """Gymnasium's own environments have no reward_valid; who ended before only resets in this step."""
    env = gymnasium.make_vec("CartPole-v1", num_envs=4, vectorization_mode="sync")
    agent = Reinforce(InvertedSoftmax(2), normalise="none", aggregate=10**6)
    observations, _ = env.reset(seed=0)
    agent.begin(env)
    paid, over = 0, np.zeros(4, bool)
    for _ in range(60):
        observations, rewards, terminations, truncations, infos = env.step(agent.act(observations).numpy())
        agent.learn(rewards, terminations | truncations, infos)
        paid += int((~over).sum())
        over = terminations | truncations
    assert agent._rows == paid < 4 * 60


def test_our_agent_trains_on_gymnasium_s_own_environments():
    agent = Reinforce(InvertedSoftmax(2), normalise="running")
    train(gymnasium.make_vec("CartPole-v1", num_envs=8, vectorization_mode="sync"), agent, seed=0)
    assert agent.normaliser.running[0] > 8 * 8


def test_a_state_is_a_copy():
    agent = Reinforce(InvertedSoftmax(3))
    agent.begin(fake_env(4, 3))
    for _ in range(2):
        agent.act(None)
        agent.learn(torch.randn(4), False, {})
    state = agent.state_dict()
    before = state["optimizer"]["state"][0]["exp_avg"].clone()
    agent.act(None)
    agent.learn(torch.randn(4), False, {})
    assert torch.equal(state["optimizer"]["state"][0]["exp_avg"], before)


class Matching(gymnasium.vector.VectorEnv):
    """Pays for the choice that the row was shown, a step late if told so; rows end apart."""

    def __init__(self, late=False):
        self.num_envs, self.late, self.reward_timing = 16, late, "next_step" if late else "same_step"
        self.single_action_space, self.single_observation_space = Discrete(3), Box(0.0, 10.0, (3,), np.float32)
        self.metadata = {"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP}
        self.rng, self.paid = np.random.default_rng(0), np.zeros(16)

    def show(self):
        self.shown = self.rng.integers(3, size=self.num_envs)
        return np.eye(3, dtype=np.float32)[self.shown] * 10

    def step(self, actions):
        now = (np.asarray(actions) == self.shown) * 1.0
        rewards, self.paid = (self.paid, now) if self.late else (now, now)
        return self.show(), rewards, self.rng.random(16) < 0.1


@pytest.mark.parametrize("late", [False, True])
def test_a_policy_that_looks_learns_what_to_do_when(late):
    env = Matching(late)
    agent = Reinforce(
        LinearSoftmax(3, scales=(10.0,) * 3), reward_timing=env.reward_timing, normalise="running", step_size=0.05
    )
    agent.begin(env)
    observations = env.show()
    for _ in range(300):
        observations, rewards, ended = env.step(agent.act(observations))
        agent.learn(rewards, ended, {})
    sure = agent.policy.probabilities(torch.eye(3) * 10).diagonal()
    assert (sure > 0.8).all()
    twin = Reinforce(LinearSoftmax(3, scales=(10.0,) * 3), reward_timing=env.reward_timing, normalise="running")
    twin.begin(env)
    twin.load_state_dict(from_data(as_data(agent.state_dict())))
    assert torch.equal(agent.act(observations), twin.act(observations))


def test_a_policy_that_looks_copies_what_it_saw():
    agent = Reinforce(LinearSoftmax(3, scales=(1.0,) * 3))
    env = Matching()
    agent.begin(env)
    observations = env.show()
    agent.act(observations)
    kept = agent._unpaid[0].seen.clone()
    observations[:] = 7
    assert torch.equal(agent._unpaid[0].seen, kept)


def test_a_linear_softmax_needs_choices_and_scales():
    with pytest.raises(ConfigurationError, match="num_choices=1 must be at least 2"):
        LinearSoftmax(1, (1.0,))
    with pytest.raises(ConfigurationError, match="above 0 each"):
        LinearSoftmax(2, (1.0, 0.0))


@pytest.mark.parametrize(
    ("shown", "message"),
    [
        (np.full((16, 3), np.nan, np.float32), "looks at finite numbers [16, d]"),
        (np.zeros((15, 3), np.float32), "looks at finite numbers [16, d]"),
        (np.zeros(3, np.float32), "looks at finite numbers [16, d]"),
    ],
)
def test_a_policy_that_looks_refuses_what_it_cannot_see(shown, message):
    agent = Reinforce(LinearSoftmax(3, scales=(1.0,) * 3))
    agent.begin(Matching())
    with pytest.raises(ConfigurationError) as caught:
        agent.act(shown)
    assert message in str(caught.value)
    agent.act(np.zeros((16, 3), np.float32))


def test_a_policy_that_looks_at_other_features_is_refused_at_once():
    with pytest.raises(ConfigurationError, match="The policy has 4 scales"):
        Reinforce(LinearSoftmax(3, scales=(1.0,) * 4)).begin(Matching())


def test_a_policy_looks_at_tensors_too():
    agent = Reinforce(LinearSoftmax(3, scales=(1.0,) * 3))
    agent.begin(Matching())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent.act(torch.zeros(16, 3))


def test_a_softmax_is_linear_in_scaled_features():
    policy = LinearSoftmax(2, scales=(4.0, 0.5))
    with torch.no_grad():
        policy.logits.copy_(torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 0.0]]))
    chance = float(policy.probabilities(torch.tensor([[8.0, 0.25]]))[0, 0])
    assert chance == pytest.approx(1 / (1 + np.exp(-(8 / 4 + 2 * 0.25 / 0.5 + 0.5))))
