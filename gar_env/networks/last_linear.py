"""What the last linear layer of a network sees, its penultimate features, and what it answers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gar_env.errors import ConfigurationError


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
        self._seen: Tensor | None = None
        self.name: str | None = None
        """Of the layer in the network; ``None`` if none was called."""
        self.output: Tensor | None = None
        """Of the layer, detached."""
        self._handles: list[RemovableHandle] = []

    @property
    def value(self) -> Tensor:
        """The input of the last pass, ``[n, width]``.

        Raises:
            ConfigurationError: If the pass called no linear layer.
        """
        if self._seen is None:
            raise ConfigurationError(
                "The network has linear layers, but its forward calls none of them, so there are no penultimate "
                "features. Leave out penultimate=True, or call the layer itself instead of F.linear."
            )
        return self._seen

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
        self._seen = args[0].detach().flatten(1)
        self.name, self.output = self.layers[layer], output.detach()  # pyright: ignore[reportArgumentType]
