import pytest
import torch

from gar_env.envs.slots.nearest import nearest_rows


def by_all_distances(rows, others):
    gaps = (rows.double()[:, None] - others.double()[None]).square().sum(2)
    return gaps.argmin(1)  # of equal ones the first


@pytest.mark.parametrize(("n", "m", "d"), [(1, 1, 1), (5, 1, 3), (200, 300, 6), (64, 64, 40), (1500, 20, 20)])
def test_the_nearest_row_is_found(n, m, d):
    rows, others = torch.rand(n, d), torch.rand(m, d)
    assert torch.equal(nearest_rows(rows, others), by_all_distances(rows, others))


@pytest.mark.parametrize("d", [2, 20])
def test_of_equal_rows_the_first_is_taken(d):
    others = torch.rand(6, d)[torch.tensor([3, 1, 3, 1, 0, 0])]
    assert nearest_rows(others, others).tolist() == [0, 1, 0, 1, 4, 4]


def test_100000_rows_do_without_all_their_distances():
    rows = torch.rand(100_000, 6)  # 40 GB of distances
    assert torch.equal(nearest_rows(rows.flip(0), rows), torch.arange(100_000).flip(0))
