"""The reward benchmark: its tasks and measures."""

import itertools
from dataclasses import replace

import gymnasium
import pytest
import torch

from agents.policies import InvertedSoftmax
from agents.studies.mixture.sources import mixture_dataset
from agents.studies.rewards.arms import ARMS
from agents.studies.rewards.cost import CostJob
from agents.studies.rewards.fidelity import (
    FidelityJob,
    cosine,
    exact_meta_gradients,
    policy_gradients,
    rank_correlation,
)
from agents.studies.rewards.jobs import parallel_jobs
from agents.studies.rewards.outcome import OutcomeJob, baselines_of
from agents.studies.rewards.study import RewardsStudy
from agents.studies.rewards.tables import strata, worst_task
from agents.studies.rewards.tasks import ENVIRONMENTS, SPLIT_TASKS, hard_and_easy
from gar_env.data import load_dataset
from rollouts import make


def quiet():
    pass


# Tasks


@pytest.mark.parametrize("task", SPLIT_TASKS)
def test_uniform_draws_score_about_0_and_the_oracle_1(task):
    size = 16 if task == "text" else 64
    scores = {arm: OutcomeJob(task, arm, 0, size, 40).run(quiet)["score"] for arm in baselines_of(task)}
    assert abs(scores["uniform"]) < 0.15
    assert scores.get("oracle", 1.0) > 0.9
    assert ("oracle" in scores) == (task != "wanted"), "where all are wanted, uniform draws are the oracle's"
    if task == "wanted":
        assert SPLIT_TASKS[task].score(torch.tensor([1.0, 0, 0, 0]), load_dataset("digits")) == -0.75


@pytest.mark.parametrize("arm", ARMS)
def test_networks_of_all_arms_take_equally_many_steps(arm):
    task = "labels" if ARMS[arm].weighs else "noisy"
    job = OutcomeJob(task, arm, 0, 16, 20)
    counted = []
    if task == "noisy":
        env = gymnasium.make_vec("GAR/DataSplit-v1", num_envs=16, dataset="digits", **job.options).unwrapped
        assert env.config.sgd_steps == 40
        assert env.config.trains_on_reference == ARMS[arm].trains_on_reference
    row = job.run(lambda: counted.append(1))
    assert len(counted) == job.env_steps
    assert row["test_accuracy"] > 0.1
    assert {"signal": arm, "task": task}.items() <= job.identity.items()


def test_the_text_task_is_told_by_its_text(monkeypatch):
    before = OutcomeJob("text", "gar", 0)
    assert before.data == "text sources"
    other = replace(mixture_dataset(""), name="other")
    other = replace(other, x_train=other.x_train.flip(0))
    config = before.identity["config"]
    monkeypatch.setitem(SPLIT_TASKS, "text", replace(SPLIT_TASKS["text"], own=lambda: other))
    assert OutcomeJob("text", "gar", 0).identity["config"] != config


def test_where_all_is_wanted_scores_are_in_no_mean():
    row = {"measure": "outcome", "signal": "gar", "batch_size": 8, "seed": 0, "test_accuracy": 0.9}
    rows = [{**row, "task": "noisy", "score": 0.8}, {**row, "task": "wanted", "score": -0.5}]
    assert strata(rows, "gar") == [[0.8]]
    assert worst_task(rows, "gar") == "noisy 0.80"


def test_an_arm_is_another_configuration_than_its_signal():
    found = {OutcomeJob("noisy", name, 0).identity["config"] for name in ("gar", *ARMS)}
    assert len(found) == 1 + len(ARMS)


def test_policies_are_compared_on_splits_alone():
    arms = ("gar-keep", "mae", "mae_half-bonus")
    study = RewardsStudy(signals=("gar",), arms=arms, seeds=1, batch_sizes=(8,), fidelity_batch_sizes=())
    named: dict[str, set[str]] = {}
    for job in parallel_jobs(study):
        named.setdefault(job.task, set()).add(job.signal)
    assert named["noisy"] & set(arms) == {"gar-keep", "mae"}
    assert named["labels"] & set(arms) == {"mae", "mae_half-bonus"}
    assert not named["arrows"] & set(arms)
    assert "near" not in named, "tasks of one's own sources are asked for by name"
    study = RewardsStudy(signals=("gar",), tasks=("wanted",), seeds=2, first_seed=7, batch_sizes=(8,))
    found = [job for job in parallel_jobs(study) if isinstance(job, OutcomeJob)]
    assert {job.seed for job in found} == {7, 8}
    assert {job.signal for job in found} == {"gar", "random", "uniform"}


def test_the_tasks_separate_gar_from_the_easy_example_trap():
    """Low loss is rewarded: noise is found, and everything that is easy is drawn, however useless."""
    found = {
        (task, signal): OutcomeJob(task, signal, 0, 64, 150).run(quiet)
        for task in ("noisy", "hard", "redundant")
        for signal in ("gar", "negative_loss", "loss")
    }
    scores = {key: row["score"] for key, row in found.items()}
    assert scores["noisy", "gar"] > 0.6
    assert scores["noisy", "negative_loss"] > 0.6, "noise is high in loss: a cheap trick finds it too"
    assert scores["hard", "negative_loss"] < -1
    assert found["hard", "negative_loss"]["test_accuracy"] < 0.5
    assert scores["hard", "gar"] > 0
    assert scores["redundant", "negative_loss"] < 0.1 < 0.9 < scores["redundant", "loss"]
    assert scores["noisy", "loss"] < 0.1
    assert found["noisy", "gar"]["auc"] < 0.4


def test_the_hard_source_has_all_classes_but_two():
    data = hard_and_easy(load_dataset("digits"))
    assert set(data.y_train[data.group_train == 0].tolist()) == set(range(2, 10))
    assert set(data.y_train[data.group_train == 1].tolist()) == {0, 1}
    assert data.groups == ("hard", "easy")


def test_every_task_gives_a_row():
    for task, env in ENVIRONMENTS.items():
        assert env.startswith("GAR/")
        row = OutcomeJob(task, "gar", 0, 8, 20).run(quiet)
        assert {"score", "test_accuracy", "diverged", "dataset", "commit"} <= set(row)
    assert {"precision_late", "recall_late", "false_alarms_late"} <= set(
        OutcomeJob("labels", "loss", 0, 16, 20).run(quiet)
    )


def test_a_run_that_diverges_at_once_scores_nothing():
    row = OutcomeJob("labels", "gar", 0, 8, 20, "digits", "fc", {"step_size": 1e30}).run(quiet)
    assert row["diverged"]
    assert row["score"] == 0
    assert row["test_accuracy"] is None


# Fidelity


def tiny(n, **options):
    """Three splits of a few digits, one of them noisy, and a network without batch normalisation."""
    env = make(
        n, dataset="digits", num_splits=3, network="fc", momentum=0.0, heldout_share=0.1, output="torch", **options
    )
    env.reset(seed=0)
    return env.unwrapped


def test_the_exact_meta_gradient_is_the_derivative_of_the_enumerated_loss():
    """By hand: gradients of all splits, mixed by the policy, one step, and the mixed loss after it."""
    slots, policy = tiny(8), InvertedSoftmax(3)
    with torch.no_grad():
        policy.logits += torch.tensor([0.3, -0.2, 0.5])
    exact, clean = exact_meta_gradients(slots, policy)
    splits, learner = slots.splits, slots.learner

    def mixed_loss(logits, network_step):
        chances = policy.log_probabilities(logits).exp()
        return sum(
            chance * network_step(splits.members[start : start + size])
            for chance, start, size in zip(chances, splits.starts, splits.sizes, strict=True)
        )

    def loss_at(parameters):
        def of(examples):
            inputs = slots.normalise(splits.inputs[examples]).double()
            outputs = torch.func.functional_call(network, parameters, (inputs,))
            return torch.nn.functional.cross_entropy(outputs, splits.targets[examples])

        return of

    network = learner.network.double()
    theta = {name: p.detach().clone().requires_grad_() for name, p in network.named_parameters()}
    fixed = policy.logits.detach().double()

    def after(logits):
        gradient = torch.autograd.grad(mixed_loss(logits, loss_at(theta)), list(theta.values()))
        step = learner.options.step_size
        return {
            name: p.detach() - step * (g + 5e-4 * p.detach())
            for (name, p), g in zip(theta.items(), gradient, strict=True)
        }

    for j in range(3):
        ends = []
        for sign in (-1, 1):
            moved = fixed.clone()
            moved[j] += sign * 1e-4
            ends.append(float(mixed_loss(fixed, loss_at(after(moved)))))
        assert float(exact[j]) == pytest.approx(-(ends[1] - ends[0]) / 2e-4, rel=1e-3, abs=1e-6)
    assert not torch.allclose(exact, clean, rtol=0.1)


def test_the_expected_nslr_policy_gradient_of_one_slot_is_the_exact_one_by_enumeration():
    """Williams: over every action and example, E[-L grad log p] is the gradient of E[-L]."""
    policy = InvertedSoftmax(2)
    with torch.no_grad():
        policy.logits += torch.tensor([0.4, -0.1])
    losses = torch.tensor([[0.3, 0.9], [1.4, 0.2]], dtype=torch.float32)  # of a step on split a, example e
    actions = torch.tensor([[a] for a, _ in itertools.product(range(2), range(2))])
    rewards = [-losses[a, e].view(1) for a, e in itertools.product(range(2), range(2))]
    chances = policy.probabilities()[actions[:, 0]] / 2
    gradients = policy_gradients(policy, list(zip(actions, rewards, strict=True)), shared=True)
    logits = policy.logits.detach().requires_grad_()
    expected = torch.autograd.grad((policy.log_probabilities(logits).exp() * -losses.mean(1)).sum(), logits)[0]
    torch.testing.assert_close((chances[:, None] * gradients).sum(0), expected)


@pytest.fixture(scope="module")
def fidelity():
    options = {"length": 40, "points": 3, "draws": 8, "network": "fc"}
    wanted = [("gar", 16), ("gar", 64), ("gar", 1024), ("leave_one_out", 16), ("random", 16), ("nslr", 16)]
    return {(s, n): FidelityJob(s, 0, n, **options).run(quiet) for s, n in wanted}


def test_gar_ranks_as_leaving_out_does_and_chance_does_not(fidelity):
    assert fidelity["leave_one_out", 16]["rank_correlation"] == pytest.approx(1)
    assert fidelity["gar", 16]["rank_correlation"] > 0.95
    assert abs(fidelity["random", 16]["rank_correlation"]) < 0.4
    assert fidelity["nslr", 16]["rank_correlation"] is None, "equal rewards rank nothing"
    assert fidelity["gar", 1024]["rank_correlation"] is None, "too many to leave out"


def test_theorem_1_gar_approaches_the_meta_gradient_as_batches_grow(fidelity):
    by_size = [fidelity["gar", n] for n in (16, 64, 1024)]
    cosines = [row["cosine"] for row in by_size]
    assert cosines == sorted(cosines)
    assert cosines[-1] > 0.85
    assert by_size[-1]["cosine_of_mean"] > 0.97
    assert by_size[-1]["signal_to_noise"] > 10 * by_size[0]["signal_to_noise"]
    assert len(by_size[0]["cosine_over_training"]) == len(by_size[0]["at"]) == 3


def test_holding_a_step_changes_nothing_about_training():
    """A run with many repeated draws trains as one with few: the network is put back each time."""
    few, many = (FidelityJob("gar", 0, 8, length=6, points=1, draws=d, network="fc") for d in (2, 5))
    # The draws come from the same generator, so only what comes before the point can be compared: the exact gradient.
    assert few.run(quiet)["at"] == many.run(quiet)["at"] == [3]
    slots = tiny(8)
    before = slots.learner.state_dict()
    exact_meta_gradients(slots, InvertedSoftmax(3))
    after = slots.learner.state_dict()
    assert all(torch.equal(after["network"][name], value) for name, value in before["network"].items())


def test_rank_correlation_and_cosine_of_nothing():
    assert rank_correlation(torch.ones(4), torch.arange(4.0)) is None
    assert rank_correlation(torch.arange(4.0), torch.arange(4.0) ** 3) == pytest.approx(1)
    assert cosine(torch.zeros(3), torch.ones(3)) == 0


# Cost


def test_costs_are_of_the_right_order():
    rows = {signal: CostJob(signal, 64, rounds=9).run(quiet) for signal in ("random", "leave_one_out")}
    assert rows["leave_one_out"]["time_ratio"] > 5
    assert 0.3 < rows["random"]["time_ratio"] < 3
    assert rows["random"]["memory_ratio"] == pytest.approx(1, abs=0.05)
    assert rows["leave_one_out"]["memory_ratio"] > 1


@pytest.mark.parametrize(
    "job", [CostJob("gar", 8), FidelityJob("gar", 0, 8, length=4, points=2), OutcomeJob("noisy", "gar", 0, 8, 20)]
)
def test_a_job_takes_the_steps_that_it_says(job):
    taken = []
    job.run(lambda: taken.append(1))
    assert len(taken) == job.steps
