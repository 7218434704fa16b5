"""One training run that looks at every example as it comes by."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from gar_env.alignment import align
from gar_env.data import Batch, Dataset, load_dataset, normalisation
from gar_env.errors import CheckpointError, ConfigurationError
from gar_env.functional import own_surroundings
from gar_env.learner import Learner, TrainingOptions
from gar_env.networks import build_network
from gar_env.networks.build import NetworkBuilder
from gar_env.registry import check_positive, did_you_mean, shown
from gar_env.rewards.reference_weights import REFERENCE_WEIGHTS, halves, shares_of
from gar_env.seeding import named_generator
from gar_env.values.table import Values

SUMS = ("visits", "alignment", "alignment_squared", "margin", "margin_squared", "loss", "error")
"""Kept of each example: sums over the epochs."""


@dataclass(frozen=True)
class ValueOptions:
    """How the network is trained, and what pays.

    Args:
        epochs: Passes over the training data.
        batch_size: Examples of a step, at least 4: each half of it judges the other.
        step_size: Of SGD without momentum.
        weight_decay: Of SGD.
        inputs: Of images: ``"unit"``, ``"symmetric"`` or ``"standardised"``.
        reference_weights: How much an example of the other half counts:
            :mod:`gar_env.rewards.reference_weights`; ``"agree"``: where its label is the network's own answer.
        seed: Of parameters, order and halves.

    Raises:
        ConfigurationError: If an option is out of range.
    """

    epochs: int = 8
    batch_size: int = 128
    step_size: float = 0.1
    weight_decay: float = 5e-4
    inputs: str = "symmetric"
    reference_weights: str = "agree"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 4), ("seed", 0)):
            if type(getattr(self, name)) is not int or getattr(self, name) < least:
                raise ConfigurationError(
                    f"{name}={shown(getattr(self, name))} must be a whole number, at least {least}."
                )
        check_positive("step_size", self.step_size)
        _ = REFERENCE_WEIGHTS[self.reference_weights]


class Valuation:
    """A training run in progress: :meth:`epoch` by epoch, and :attr:`values` of all that was seen.

    Args:
        network: A name, or a function ``(input_shape, num_outputs) -> nn.Module``.
        dataset: Of labels; its training examples are valued.
        options: See :class:`ValueOptions`.
        device: Where.

    Raises:
        ConfigurationError: If the examples have no labels, or are fewer than a batch.
    """

    def __init__(
        self,
        network: str | NetworkBuilder,
        dataset: Dataset,
        options: ValueOptions = ValueOptions(),
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        if not dataset.has_labels:
            raise ConfigurationError(
                f"{dataset.name} has no label for each example, and values are of labels: what is doubtful is whether "
                "one is right."
            )
        n = len(dataset.x_train)
        if n < options.batch_size:
            raise ConfigurationError(
                f"{dataset.name} has {n} training examples, fewer than batch_size={options.batch_size}. Lower it."
            )
        self.dataset, self.options, self.device = dataset, options, torch.device(device)
        self.name = network if isinstance(network, str) else getattr(network, "__qualname__", "<unnamed>")
        self.normalise = normalisation(dataset.x_train.to(self.device), options.inputs)
        self.learner = Learner(
            lambda: build_network(network, dataset.input_shape, dataset.outputs),
            TrainingOptions(step_size=options.step_size, momentum=0.0, weight_decay=options.weight_decay),
            seed=options.seed,
            num_steps=options.epochs * self.steps_of_epoch,
            device=self.device,
        )
        self.generator = named_generator(options.seed, "data")
        self.sums = {name: torch.zeros(n, dtype=torch.float64) for name in SUMS}
        self.answers = torch.zeros(n, dataset.outputs)
        self.done = 0
        self._weigh = REFERENCE_WEIGHTS[options.reference_weights]

    @property
    def steps_of_epoch(self) -> int:
        """Batches of an epoch; examples that fill none come in another one."""
        return len(self.dataset.x_train) // self.options.batch_size

    @own_surroundings()
    def epoch(self, on_step: Callable[[], None] = lambda: None) -> None:
        """Train once over the data; each example is judged before the step that it is in."""
        order = torch.randperm(len(self.dataset.x_train), generator=self.generator)
        for rows in order.split(self.options.batch_size)[: self.steps_of_epoch]:
            self._step(rows)
            on_step()
        self.done += 1

    def _step(self, rows: Tensor) -> None:
        inputs, labels = self.dataset.x_train[rows].to(self.device), self.dataset.y_train[rows].to(self.device)
        batch, n = Batch(self.normalise(inputs), labels), len(rows)
        tape = self.learner.run(batch, record=True).tape
        assert tape is not None
        first, second = (half.to(self.device) for half in halves(n, self.generator))
        found, logits = [], None
        for judges in (second, first):

            def weigh(outputs: Tensor, targets: Tensor, shares: Tensor = shares_of(judges)) -> Tensor:  # noqa: B008
                return shares * self._weigh(outputs, targets)

            aside = self.learner.run(batch, aside=True, weigh=weigh)
            logits = aside.outputs
            found.append(align(tape, aside.gradient, retain_tape=True))
        assert logits is not None
        if logits.shape != (n, self.dataset.outputs):
            raise ConfigurationError(
                f"The network returned {list(logits.shape)} for {n} examples; expected [{n}, {self.dataset.outputs}], "
                f"a logit for each class of {self.dataset.name}."
            )
        self._add(rows, torch.where(first, *found), logits, labels)
        self.learner.update()

    def _add(self, rows: Tensor, alignment: Tensor, logits: Tensor, labels: Tensor) -> None:
        counts = torch.bincount(labels, minlength=logits.shape[1])
        means = torch.zeros_like(counts, dtype=alignment.dtype).index_add(0, labels, alignment) / counts.clamp_min(1)
        # What all examples of a label have in common says how often it is drawn, not whether it is right.
        centred = alignment - means[labels]
        chances = logits.softmax(1)
        own = logits.gather(1, labels[:, None])[:, 0]
        margin = own - logits.scatter(1, labels[:, None], -torch.inf).amax(1)
        target = torch.nn.functional.one_hot(labels, logits.shape[1])
        terms = {
            "visits": torch.ones_like(margin),
            "alignment": centred,
            "alignment_squared": centred.square(),
            "margin": margin,
            "margin_squared": margin.square(),
            "loss": torch.nn.functional.cross_entropy(logits, labels, reduction="none"),
            "error": (chances - target).norm(dim=1),
        }
        for name, term in terms.items():
            self.sums[name][rows] += term.double().cpu()
        self.answers[rows] += chances.cpu()

    @property
    def values(self) -> Values:
        """Of every example, over the epochs so far.

        Raises:
            ConfigurationError: Before the first.
        """
        if not self.done:
            raise ConfigurationError("No epoch has been trained yet. Call epoch() first.")
        return Values.of(self.dataset, self.sums, self.answers)

    def state_dict(self) -> dict[str, Any]:
        """A copy of all that the next epochs depend on: numbers, text and tensors."""
        return {
            "identity": self._identity,
            "learner": self.learner.state_dict(),
            "generator": self.generator.get_state(),
            "sums": {name: total.clone() for name, total in self.sums.items()},
            "answers": self.answers.clone(),
            "done": self.done,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict`, bit for bit on the CPU.

        Raises:
            CheckpointError: If it is of other data, options or another network.
        """
        for what, own in self._identity.items():
            found = state.get("identity", {}).get(what)
            if found != own:
                raise CheckpointError(
                    f"The state is of another run: {what} is {shown(found)}, here {shown(own)}. Begin anew in another "
                    "folder."
                )
        self.learner.load_state_dict(state["learner"])
        self.generator.set_state(state["generator"])
        for name, total in self.sums.items():
            total.copy_(state["sums"][name])
        self.answers.copy_(state["answers"])
        self.done = int(state["done"])

    @property
    def _identity(self) -> dict[str, Any]:
        return {"network": self.name, "data": self.dataset.fingerprint, **asdict(self.options)}


def value(
    network: str | NetworkBuilder,
    dataset: str | os.PathLike[str] | Dataset,
    *,
    device: torch.device | str = "cpu",
    on_step: Callable[[], None] = lambda: None,
    **options: Any,
) -> Values:
    """What each training example is worth: trains a network on all of them, and looks how each agrees with the others.

    Args:
        network: A name, or a function ``(input_shape, num_outputs) -> nn.Module``.
        dataset: Of labels: a name, a path or a data set.
        device: Where.
        on_step: Called after each step.
        **options: Of :class:`ValueOptions`.

    Raises:
        ConfigurationError: If an option is out of range, or the examples have no labels.
        GarEnvError: Whatever loading the data or building the network raises.

    Example:
        >>> values = value("fc", load_dataset("digits").taking(torch.arange(256)), epochs=2, batch_size=64)
        >>> len(values), values.alignment.shape, bool((values.visits == 2).all())
        (256, (256,), True)

    Source:
        Alignment: Mueller, Biedenkapp & Hutter (2021), with the other half of the batch for the next one. Margins:
        Pleiss et al. (2020), "Identifying Mislabeled Data using the Area Under the Margin Ranking". Errors: Paul,
        Ganguli & Dziugaite (2021), EL2N.
    """
    known = [field.name for field in fields(ValueOptions)]
    odd = next((name for name in options if name not in known), None)
    if odd is not None:
        raise ConfigurationError(
            f"There is no option {shown(odd)}.{did_you_mean(odd, known)}\nKnown: {', '.join(known)}."
        )
    run = Valuation(network, load_dataset(dataset), ValueOptions(**options), device=device)
    for _ in range(run.options.epochs):
        run.epoch(on_step)
    return run.values
