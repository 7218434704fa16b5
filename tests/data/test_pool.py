import pytest
import torch

from gar_env.data import load_dataset, make_pool


@pytest.mark.parametrize("noise", ["symmetric_noise", "asymmetric_noise"])
def test_label_noise_makes_the_given_share_of_labels_wrong_and_marks_them(noise):
    dataset = load_dataset("digits")
    pool = make_pool(dataset, torch.Generator().manual_seed(0), corrupt=f"{noise}(0.4)", heldout_share=0.1)
    wrong = pool.targets != dataset.y_train
    assert torch.equal(wrong, pool.spoiled)
    assert int(wrong.sum()) == round(0.4 * len(pool.members))
    assert not wrong[pool.heldout].any()
    moved = (pool.targets - dataset.y_train)[wrong] % 10
    assert set(moved.tolist()) == ({1} if noise == "asymmetric_noise" else set(range(1, 10)))


def test_two_corruptions_share_out_the_examples():
    dataset = load_dataset("digits")
    pool = make_pool(dataset, torch.Generator().manual_seed(0), corrupt="symmetric_noise(0.3), pixel_noise(0.2)")
    relabelled = pool.targets != dataset.y_train
    redrawn = (pool.inputs.all() != dataset.x_train).flatten(1).any(1)
    assert not (relabelled & redrawn).any()
    assert torch.equal(relabelled | redrawn, pool.spoiled)
