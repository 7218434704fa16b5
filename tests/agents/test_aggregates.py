"""Interquartile means, probabilities of improvement, and what their intervals cover."""

import numpy as np
import pytest

from agents.measures.aggregates import interquartile_mean, probability_of_improvement


def test_the_interquartile_mean_ignores_the_outer_halves():
    scores = [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 1000.0]]
    assert interquartile_mean(scores).value == np.mean([2, 3, 4, 5])
    assert interquartile_mean([[0.3]]) == (0.3, 0.3, 0.3)


def test_seeds_are_drawn_again_within_tasks_only():
    """Were tasks mixed, a bootstrap sample could hold nothing but ones."""
    found = interquartile_mean([[0.0] * 5, [1.0] * 5])
    assert found.low == found.value == found.high == 0.5


def test_improvement_counts_pairs_and_ties_half():
    assert probability_of_improvement([[1, 2]], [[0, 0]]).value == 1
    assert probability_of_improvement([[1, 2]], [[1, 3]]).value == (0.5 + 0 + 1 + 0) / 4
    assert probability_of_improvement([[1.0], [0.0]], [[0.0], [1.0]]).value == 0.5
    a, b = [[1, 2, 3], [5, 1, 1]], [[2, 2, 0], [1, 4, 4]]
    assert probability_of_improvement(a, b).value + probability_of_improvement(b, a).value == pytest.approx(1)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """Bootstrap intervals of few seeds are somewhat short; of twenty they hold."""
    generator, held = np.random.default_rng(0), []
    for _ in range(100):
        found = interquartile_mean([generator.normal(0, 1, 20), generator.normal(0, 1, 20)])
        held.append(found.low <= 0 <= found.high)
    assert 0.86 <= np.mean(held) <= 1


def test_the_same_scores_give_the_same_intervals():
    scores = [[0.1, 0.5, 0.3], [0.2, 0.9, 0.4]]
    assert interquartile_mean(scores) == interquartile_mean(scores)
