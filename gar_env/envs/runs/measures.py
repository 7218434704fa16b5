"""What runs come to: their loss on what they may see, and their accuracy on what they may not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from gar_env.data import Dataset, in_batches
from gar_env.learner import LOSSES, LearnerStack, measure

CHUNK = 2**22
"""Numbers of inputs that are passed at a time."""


class Measures:
    """Measured in evaluation mode; nothing of the networks changes.

    Args:
        data: On the device.
        normalise: From its examples to inputs.
        loss_examples: Most examples of its part that a run's loss is measured on.
        test_examples: Most examples of the test data, evenly over them.
    """

    def __init__(
        self, data: Dataset, normalise: Callable[[Tensor], Tensor], loss_examples: int, test_examples: int
    ) -> None:
        self.data, self.normalise, self.loss_examples = data, normalise, loss_examples
        total = len(data.x_test)
        chosen = torch.linspace(0, total - 1, min(test_examples, total)).round().long()
        self._test = normalise(data.x_test[chosen]), data.y_test[chosen]

    @torch.no_grad()
    def training_losses(self, stack: LearnerStack, rows: Tensor, parts: list[Tensor]) -> Tensor:
        """Mean loss of each row on the first examples of its part.

        Args:
            stack: The networks.
            rows: int64 ``[k]``, growing.
            parts: Of each, int64 ``[m]``.

        Returns:
            ``[k]``.
        """
        parts = [part[: self.loss_examples] for part in parts]
        most, found, kind = max(map(len, parts)), [], LOSSES[self.data.loss]
        for some in _chunks(len(rows), most * math.prod(self.data.input_shape)):
            own = torch.zeros(len(rows[some]), most, dtype=torch.int64)
            for place, part in zip(own, parts[some], strict=True):
                place[: len(part)] = part
            examples = own.flatten().to(rows.device)
            inputs = self.normalise(self.data.x_train[examples]).view(*own.shape, *self.data.input_shape)
            outputs = stack.outputs(inputs, rows=rows[some])
            losses = kind(self.data.y_train[examples])(outputs.flatten(0, 1)).view(own.shape)
            found += [line[: len(part)].mean() for line, part in zip(losses, parts[some], strict=True)]
        return torch.stack(found)

    @torch.no_grad()
    def test_accuracies(self, stack: LearnerStack, rows: Tensor) -> Tensor:
        """Accuracy of each row on test data, ``[k]``; rows as in :meth:`training_losses`."""
        inputs, targets = self._test
        found = []
        for some in _chunks(len(rows), inputs.numel()):
            outputs = stack.outputs(inputs[None], rows=rows[some])
            found += [measure(self.data.loss, [(own, targets)])[0] for own in outputs]
        return torch.tensor(found, device=rows.device)

    @torch.no_grad()
    def test_accuracy(self, network: nn.Module) -> float:
        """Accuracy of one network on the test examples of :meth:`test_accuracies`."""
        network.eval()
        return measure(self.data.loss, [(network(self._test[0]), self._test[1])])[0]

    @torch.no_grad()
    def test(self, network: nn.Module) -> tuple[float, float]:
        """Accuracy and mean loss of a network on all test data."""
        network.eval()
        test = in_batches(self.data.x_test, self.data.y_test, self.normalise, self.data.x_test.device)
        return measure(self.data.loss, ((network(batch.inputs), batch.targets) for batch in test))


def _chunks(rows: int, numbers: int) -> Iterator[slice]:
    """Of rows with so many numbers each."""
    size = max(1, CHUNK // numbers)
    return (slice(start, start + size) for start in range(0, rows, size))
