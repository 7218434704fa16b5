"""Values of training examples: against a plain loop, on wrong labels of several kinds, in files."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import rankdata

from agents.cli.main import main
from gar_env.data import Dataset, load_dataset
from gar_env.errors import CheckpointError, ConfigurationError, UnknownNameError
from gar_env.values import Valuation, ValueOptions, Values, value


def small(n: int = 256) -> Dataset:
    return load_dataset("digits").taking(torch.arange(n))


def wrong(kind: str, share: float = 0.3) -> tuple[Dataset, np.ndarray]:
    """Digits with wrong labels, and which are right."""
    data = load_dataset("digits")
    generator = torch.Generator().manual_seed(0)
    n = len(data.y_train)
    bad = torch.randperm(n, generator=generator)[: int(share * n)]
    y = data.y_train.clone()
    shift = 1 if kind == "next" else torch.randint(1, 10, (len(bad),), generator=generator)
    y[bad] = (y[bad] + shift) % 10
    return replace(data, y_train=y), (y == data.y_train).numpy()


def area(values: np.ndarray, good: np.ndarray) -> float:
    ranks = rankdata(values)
    return (ranks[good].sum() - good.sum() * (good.sum() + 1) / 2) / (good.sum() * (~good).sum())


def test_an_epoch_is_what_a_plain_loop_finds():
    """One gradient at a time, ``fc``, no batch statistics."""
    data, options = small(64), ValueOptions(epochs=1, batch_size=32, seed=3, reference_weights="mae")
    run = Valuation("fc", data, options)
    network = run.learner.network
    plain = Valuation("fc", data, options).learner.network
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, weight_decay=5e-4)
    generator = torch.Generator()
    generator.set_state(run.generator.get_state())
    run.epoch()
    expected = {name: torch.zeros(64) for name in ("alignment", "margin", "loss")}
    inputs = data.x_train.float() / 127.5 - 1
    for rows in torch.randperm(64, generator=generator).split(32):
        x, y = inputs[rows], data.y_train[rows]
        each = torch.stack(
            [
                torch.cat(
                    [
                        g.flatten()
                        for g in torch.autograd.grad(F.cross_entropy(plain(a[None]), b[None]), [*plain.parameters()])
                    ]
                )
                for a, b in zip(x, y, strict=True)
            ]
        )
        with torch.no_grad():
            logits = plain(x)
        p = logits.softmax(1)[torch.arange(32), y]
        first = torch.zeros(32, dtype=torch.bool)
        first[torch.randperm(32, generator=generator)[:16]] = True
        weighed = p[:, None] * each
        alignment = torch.where(first, each @ weighed[~first].mean(0), each @ weighed[first].mean(0))
        for label in range(10):
            if bool((y == label).any()):
                alignment[y == label] -= alignment[y == label].mean()
        expected["alignment"][rows] = alignment
        others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
        expected["margin"][rows] = logits[torch.arange(32), y] - others
        expected["loss"][rows] = F.cross_entropy(logits, y, reduction="none")
        F.cross_entropy(plain(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    found = run.values
    for name, numbers in expected.items():
        np.testing.assert_allclose(getattr(found, name), numbers.numpy(), rtol=2e-3, atol=2e-5)
    for a, b in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    assert np.isnan(found.standard_error).all(), "one visit has no spread"


@pytest.mark.parametrize(("kind", "systematic"), [("random", False), ("next", True)])
def test_wrong_labels_are_found(kind, systematic):
    data, good = wrong(kind)
    found = value("fc_bn", data, epochs=6, batch_size=64)
    by_margin, by_both = area(found.rank_by_margin, good), area(found.rank, good)
    assert by_margin > 0.85
    assert area(found.rank_by_alignment, good) > 0.8
    assert found.systematic == systematic
    assert by_both >= by_margin - 1e-9
    assert (found.suggested == load_dataset("digits").y_train.numpy())[good].mean() > 0.9
    assert found.visits.sum() == 6 * (len(good) // 64) * 64


def test_errors_and_ranks_by_hand():
    data = small(8)
    sums = {name: torch.zeros(8, dtype=torch.float64) for name in ("visits", "alignment", "alignment_squared", "margin",
            "margin_squared", "loss", "error")}  # fmt: skip
    each = torch.tensor([[1.0, 3.0], [-2.0, 0.0], [0.5, 0.5], [4.0, 6.0]], dtype=torch.float64)
    sums["visits"][:4] = 2
    for name in ("alignment", "margin"):
        sums[name][:4], sums[f"{name}_squared"][:4] = each.sum(1), each.square().sum(1)
    found = Values.of(data, sums, torch.zeros(8, 10))
    np.testing.assert_allclose(found.alignment[:4], each.mean(1))
    np.testing.assert_allclose(found.standard_error[:4], each.std(1) / np.sqrt(2))
    assert np.isnan(found.standard_error[4:]).all()
    assert found.rank_by_margin[:4].argsort().tolist() == [1, 2, 0, 3]
    assert sorted(found.rank.tolist()) == list(range(8))
    assert found.rank[1] == 0
    assert found.suggested[4:].tolist() == [-1] * 4
    assert np.isnan(found.loss[4:]).all()
    assert sorted(found.most_doubtful(8).tolist()) == [0, 1, 2, 3], "what was never seen is not doubted"
    found.label[0] += 1
    assert found.label[0] != data.y_train[0], "a copy"


def test_it_goes_on_from_a_state_bit_for_bit():
    def made(**options: int) -> Valuation:
        return Valuation("fc_bn", small(), ValueOptions(epochs=3, batch_size=32, **options))

    whole, one, other = made(), made(), made()
    for _ in range(3):
        whole.epoch()
    one.epoch()
    other.load_state_dict(one.state_dict())
    other.epoch()
    other.epoch()
    for a, b in zip(vars(whole.values).values(), vars(other.values).values(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(CheckpointError, match="The state is of another run: seed is 0, here 1"):
        made(seed=1).load_state_dict(one.state_dict())
    with pytest.raises(CheckpointError, match="data is"):
        Valuation("fc_bn", small(250), ValueOptions(epochs=3, batch_size=32)).load_state_dict(one.state_dict())


def test_the_command_writes_a_table_and_a_page_and_goes_on(tmp_path, capsys):
    data = small()
    np.savez(tmp_path / "mine.npz", x_train=data.x_train[:, 0].numpy(), y_train=data.y_train.numpy(),
             x_test=data.x_test[:5, 0].numpy(), y_test=data.y_test[:5].numpy(),
             classes=np.array([f"<{i}>" for i in range(10)]))  # fmt: skip
    command = ["value", "--dataset", str(tmp_path / "mine.npz"), "--network", "fc", "--batch-size", "32",
               "--out", str(tmp_path / "out")]  # fmt: skip
    main([*command, "--epochs", "2", "--pictures", "7"])
    printed = capsys.readouterr().out
    assert "Most doubtful labels" in printed
    with (tmp_path / "out" / "values.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 256
    assert {row["label"] for row in rows} == {f"<{i}>" for i in range(10)}
    assert sorted(int(row["rank"]) for row in rows) == list(range(256))
    page = (tmp_path / "out" / "doubtful.html").read_text()
    assert page.count("<figure>") == page.count("data:image/png;base64") == 7
    assert "&lt;3&gt;" in page
    assert "<3>" not in page
    main([*command, "--epochs", "2"])
    assert "Going on after epoch 2 of 2." in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*command, "--epochs", "3"])
    assert "The state is of another run: epochs is 2, here 3. Begin anew in another folder." in capsys.readouterr().err
    (tmp_path / "out" / "state.pt").write_bytes(b"no state")
    with pytest.raises(SystemExit):
        main([*command, "--epochs", "2"])
    assert "state.pt cannot be read" in capsys.readouterr().err


def test_a_page_of_other_data_is_refused_and_vectors_have_numbers(tmp_path):
    vectors = torch.randn(64, 5)
    labels = (vectors[:, 0] > 0).long()
    data = Dataset("vectors", vectors, labels, vectors[:4], labels[:4], ("no", "yes"))
    found = value("mlp-8", data, epochs=1, batch_size=16)
    assert "<code>" in found.page(tmp_path / "page.html", data, count=3).read_text()
    with pytest.raises(ConfigurationError, match="digits has 256 examples, and these are values of 64, or"):
        found.page(tmp_path / "page.html", small())
    assert found.entropy == 1.0, "of two classes there is one other answer"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epochs": 0}, ConfigurationError, "epochs=0 must be a whole number, at least 1"),
        ({"batch_size": 2}, ConfigurationError, "batch_size=2 must be a whole number, at least 4"),
        ({"batch_size": 512}, ConfigurationError, "digits has 256 training examples, fewer than batch_size=512"),
        ({"reference_weights": "some"}, UnknownNameError, "No reference weight is called 'some'"),
        ({"step_size": 0.0}, ConfigurationError, "step_size=0.0"),
        ({"epoch": 1}, ConfigurationError, "There is no option 'epoch'. Did you mean 'epochs'?"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        value("fc", small(), **options)


def test_examples_without_labels_are_refused():
    data = Dataset("numbers", torch.randn(9, 3), torch.randn(9, 1), torch.randn(2, 3), torch.randn(2, 1))
    with pytest.raises(ConfigurationError, match="numbers has no label for each example"):
        value("fc", data)
    with pytest.raises(ConfigurationError, match=r"The network returned \[128, 12\] for 128 examples; expected"):
        value(lambda shape, outputs: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 12)), small())
    with pytest.raises(ConfigurationError, match=r"No epoch has been trained yet. Call epoch\(\) first"):
        _ = Valuation("fc", small()).values
