"""What the last linear layer of a network sees, its penultimate features, and what it answers."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gar_env.errors import ConfigurationError
from gar_env.state import plain


@plain
class LastLayer(NamedTuple):
    """The last linear layer that a pass called.

    Args:
        name: In the network.
        inputs: ``[n, width]``, detached.
        output: ``[n, ...]``, likewise.
    """

    name: str
    inputs: Tensor
    output: Tensor


class LastLinearInputs:
    """Inside ``with``, keeps the input of whichever linear layer was called last, and its output.

    Args:
        network: Any module with a linear layer.

    Raises:
        ConfigurationError: If there is no linear layer.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 5))
        >>> with LastLinearInputs(network) as features:
        ...     logits = network(torch.ones(4, 3))
        >>> features.value.shape
        torch.Size([4, 2])
    """

    def __init__(self, network: nn.Module) -> None:
        self.layers = {module: name for name, module in network.named_modules() if isinstance(module, nn.Linear)}
        if not self.layers:
            raise ConfigurationError(
                "The network has no linear layer, whose input would be its penultimate features. Give it a linear "
                "output layer, or leave out what reads them: penultimate=True, reward='last_layer_gar'."
            )
        self.seen: LastLayer | None = None
        """Of the last pass; ``None`` if it called no linear layer."""
        self._handles: list[RemovableHandle] = []

    @property
    def value(self) -> Tensor:
        """The input of the last pass, ``[n, width]``.

        Raises:
            ConfigurationError: If the pass called no linear layer.
        """
        if self.seen is None:
            raise ConfigurationError(
                "The network has linear layers, but its forward calls none of them, so there are no penultimate "
                "features. Leave out penultimate=True, or call the layer itself instead of F.linear."
            )
        return self.seen.inputs

    @property
    def width(self) -> int:
        """How many features there are; after a pass."""
        return self.value.shape[1]

    def __enter__(self) -> LastLinearInputs:
        self._handles = [layer.register_forward_hook(self._keep) for layer in self.layers]
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _keep(self, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        self.seen = LastLayer(self.layers[layer], args[0].detach().flatten(1), output.detach())  # pyright: ignore[reportArgumentType]

    def state_dict(self) -> dict[str, Any]:
        """What was seen."""
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state_dict`."""
        self.seen = state["seen"]
