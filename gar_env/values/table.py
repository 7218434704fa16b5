"""Values of examples: as arrays, as a table in a file, as a page with pictures."""

from __future__ import annotations

import base64
import csv
import html
import io
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from gar_env.data import Dataset
from gar_env.errors import ConfigurationError
from gar_env.registry import shown

SYSTEMATIC_ENTROPY, SEEN_CORRELATION = 0.8, 0.2
"""Below the first, and above the second, mistakes look systematic."""


@dataclass(frozen=True, eq=False)
class Values:
    """One number for each training example in every field, ``[n]``, in the order of the data.

    Args:
        label: Of the data.
        suggested: The answer that the network gave with the highest mean probability; -1 where it never saw the
            example, whose means are NaN.
        alignment: Mean over visits of the example's gradient with those of the others, minus its label's mean: below 0
            where it pulls against them.
        standard_error: Of that mean.
        margin: Mean of the label's logit minus the highest other.
        margin_standard_error: Likewise.
        loss: Mean, in nats.
        error: Mean length of the probabilities minus the label's.
        visits: How often it was seen.
        rank_by_alignment: 0 for the most doubtful, by alignment alone.
        rank_by_margin: Likewise, by margin.
        rank: Likewise, by margin; and by both, each in standard deviations, added, where mistakes look
            :attr:`systematic`.
    """

    label: np.ndarray
    suggested: np.ndarray
    alignment: np.ndarray
    standard_error: np.ndarray
    margin: np.ndarray
    margin_standard_error: np.ndarray
    loss: np.ndarray
    error: np.ndarray
    visits: np.ndarray
    rank_by_alignment: np.ndarray
    rank_by_margin: np.ndarray
    rank: np.ndarray

    @property
    def entropy(self) -> float:
        """Of what the network answers instead of a label, over that of answers spread evenly: below 1 where mistakes
        are of a few kinds."""
        return _entropy_of_answers(self.label, self.suggested)

    @property
    def correlation(self) -> float:
        """Spearman's, of alignment and margin."""
        return float(np.corrcoef(self.rank_by_alignment, self.rank_by_margin)[0, 1]) if len(self) > 1 else 0.0

    @property
    def systematic(self) -> bool:
        """Whether mistakes look as if they were of few kinds, and alignment as if it saw them: then it tells more than
        the margin, whose network has learned them. Of mistakes at random, or of those that people make, the margin
        alone tells more (``docs/values.md``). Thresholds read off one seed of three kinds of mistakes.
        """
        return self.entropy < SYSTEMATIC_ENTROPY and self.correlation > SEEN_CORRELATION

    @classmethod
    def of(cls, dataset: Dataset, sums: Mapping[str, Tensor], answers: Tensor) -> Values:
        """From sums over visits; an example that was never seen is in the middle of every rank.

        Args:
            dataset: What was valued.
            sums: By name, ``[n]``: see :data:`gar_env.values.valuation.SUMS`.
            answers: Sums of probabilities, ``[n, classes]``.
        """
        visits = sums["visits"].numpy()
        seen = np.maximum(visits, 1)
        mean = {name: np.where(visits > 0, total.numpy() / seen, np.nan) for name, total in sums.items()}

        def error_of(name: str) -> np.ndarray:
            spread = np.maximum(mean[f"{name}_squared"] - mean[name] ** 2, 0) * seen / np.maximum(seen - 1, 1)
            return np.where(visits > 1, np.sqrt(spread / seen), np.nan)

        alignment, margin = mean["alignment"], mean["margin"]
        by_alignment, by_margin = (_standardised(one, visits) for one in (alignment, margin))
        found = cls(
            label=dataset.y_train.numpy().copy(),
            suggested=np.where(visits > 0, answers.argmax(1).numpy(), -1),
            alignment=alignment,
            standard_error=error_of("alignment"),
            margin=margin,
            margin_standard_error=error_of("margin"),
            loss=mean["loss"],
            error=mean["error"],
            visits=visits.astype(int),
            rank_by_alignment=_ranks(by_alignment),
            rank_by_margin=_ranks(by_margin),
            rank=_ranks(by_margin),
        )
        return replace(found, rank=_ranks(by_alignment + by_margin)) if found.systematic else found

    def __len__(self) -> int:
        """How many examples."""
        return len(self.label)

    def most_doubtful(self, count: int = 20) -> np.ndarray:
        """Numbers of the examples whose labels are most doubtful by :attr:`rank`, int ``[count]``, of those seen."""
        order = np.argsort(self.rank)
        return order[self.visits[order] > 0][:count]

    def save(self, path: str | Path, dataset: Dataset) -> Path:
        """Write a CSV file: a line for each example, ``index`` first, classes by name; empty where nothing is known.

        Raises:
            ConfigurationError: If it is of other data.
        """
        self._check_is_of(dataset)
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        names = [field.name for field in fields(self)]
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["index", *names])
            for i in range(len(self)):
                row = []
                for name in names:
                    one = getattr(self, name)[i]
                    known = one >= 0 if name == "suggested" else one == one
                    if name in ("label", "suggested"):
                        row.append(dataset.classes[one] if known else "")
                    else:
                        row.append(int(one) if one.dtype.kind == "i" else f"{one:.6g}" if known else "")
                writer.writerow([i, *row])
        return path

    def page(self, path: str | Path, dataset: Dataset, *, count: int = 60) -> Path:
        """Write one HTML file with the most doubtful examples: pictures of images, else their first numbers.

        Args:
            path: Of the file.
            dataset: That was valued.
            count: Examples on the page.

        Raises:
            ConfigurationError: If it is of other data, or ``count`` is below 1.
        """
        self._check_is_of(dataset)
        if count < 1:
            raise ConfigurationError(f"count={shown(count)} must be at least 1 example.")
        cards = []
        for i in self.most_doubtful(count).tolist():
            label, suggested = (dataset.classes[getattr(self, name)[i]] for name in ("label", "suggested"))
            text = (
                f"<b>{i}</b>: {html.escape(label)}<br>network: {html.escape(suggested)}<br>alignment "
                f"{self.alignment[i]:+.3g} &plusmn; {self.standard_error[i]:.2g}<br>margin {self.margin[i]:+.3g}<br>"
                f"ranks {self.rank_by_alignment[i]}, {self.rank_by_margin[i]}"
            )
            cards.append(f"<figure>{_picture(dataset, i)}<figcaption>{text}</figcaption></figure>")
        how = "margin, and alignment with the others: mistakes look systematic" if self.systematic else "margin"
        title = f"{html.escape(dataset.name)}: the {len(cards)} most doubtful labels of {len(self)}"
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PAGE.format(title=title, how=how, cards="\n".join(cards)), encoding="utf-8")
        return path

    def _check_is_of(self, dataset: Dataset) -> None:
        if not np.array_equal(dataset.y_train.numpy(), self.label):
            raise ConfigurationError(
                f"{dataset.name} has {len(dataset.x_train)} examples, and these are values of {len(self)}, or of other "
                "labels. Pass the data that were valued."
            )


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 14px sans-serif; margin: 2em; }}
main {{ display: flex; flex-wrap: wrap; gap: 1em; }}
figure {{ margin: 0; width: 11em; border: 1px solid #ccc; padding: .5em; }}
img {{ width: 100%; image-rendering: pixelated; }}
</style>
<h1>{title}</h1>
<p>By {how}. A doubtful label may be right.</p>
<main>
{cards}
</main></html>
"""


def _picture(dataset: Dataset, i: int) -> str:
    example = dataset.x_train[i]
    if dataset.kind != "images":
        numbers = ", ".join(f"{number:.3g}" for number in example.flatten()[:8].tolist())
        return f"<code>{numbers}</code>"
    from PIL import Image

    pixels = example.permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels[:, :, :3]).save(file, "PNG")
    return f'<img alt="example {i}" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'


def _entropy_of_answers(label: np.ndarray, suggested: np.ndarray) -> float:
    classes = int(max(label.max(), suggested.max())) + 1
    table = np.zeros((classes, classes))
    wrong = (label != suggested) & (suggested >= 0)
    np.add.at(table, (label[wrong], suggested[wrong]), 1)
    totals = table.sum(1)
    if not totals.sum() or classes < 3:
        return 1.0
    shares = table / np.maximum(totals, 1)[:, None]
    each = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(1) / np.log(classes - 1)
    return float(np.average(each, weights=totals))


def _standardised(values: np.ndarray, visits: np.ndarray) -> np.ndarray:
    known = visits > 0
    if not known.any():
        return np.zeros(len(values))
    return np.where(known, (values - values[known].mean()) / (values[known].std() or 1.0), 0.0)


def _ranks(values: np.ndarray) -> np.ndarray:
    ranks = np.empty(len(values), int)
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks
