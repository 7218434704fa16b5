"""A network from its name, or from the user's own builder."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from gar_env.errors import ConfigurationError, GarEnvError, UnknownNameError
from gar_env.networks.few_shot import conv4, tanh_mlp
from gar_env.networks.layered import layered, widths_of
from gar_env.networks.paper import CNN_BN, FC, FC_BN
from gar_env.networks.small import SmallCNN
from gar_env.networks.transformer import Transformer
from gar_env.networks.wide_resnet import WideResNet
from gar_env.registry import Registry, did_you_mean, shown

NetworkBuilder = Callable[[Any, int], nn.Module]
"""``(input_shape, num_outputs) -> nn.Module``; of images the shape is ``(channels, height, width)``."""

NETWORKS: Registry[NetworkBuilder] = Registry("network")
register_network = NETWORKS.register
register_network("fc")(FC)
register_network("fc_bn")(FC_BN)
register_network("cnn_bn")(CNN_BN)
register_network("cnn")(SmallCNN)


EXAMPLES = (
    *("wrn-16-2", "wrn-28-10", "mlp-100", "mlp-100-50", "tanh-64-64", "cpcpcrcs-20-50-500", "conv4-64"),
    "transformer-96-2",
)
IMAGES_ONLY = ("cnn", "cnn_bn")


def build_network(network: str | NetworkBuilder, input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
    """Build a network with fresh parameters (drawn from torch's global generator, as modules do).

    Args:
        network: ``"fc"``, ``"fc_bn"``, ``"cnn_bn"``, ``"cnn"``, ``"wrn-d-k"`` with any published depth and width
            (``"wrn-28-10"``), ``"mlp-w"`` and ``"cpcpcrcs-w-w-w"`` (:func:`~gar_env.networks.layered.layered`),
            ``"tanh-w"``, ``"conv4-w"`` and ``"conv4-w-strided"`` (:mod:`gar_env.networks.few_shot`),
            ``"transformer-w-d"`` of a width and number of blocks
            (:class:`~gar_env.networks.transformer.Transformer`), a name registered with :func:`register_network`,
            ``"module:name"``, or a function ``(input_shape, num_outputs) -> nn.Module``.
        input_shape: Of one input; of an image ``(channels, height, width)``.
        num_outputs: How many logits, or other numbers.

    Raises:
        UnknownNameError: If there is no network of that name.
        ConfigurationError: If the builder returns something else than a module.

    Example:
        >>> build_network("wrn-16-2", (3, 32, 32), 10).widths
        (16, 32, 64, 128)
    """
    if not isinstance(num_outputs, int) or num_outputs < 1:
        raise ConfigurationError(f"num_outputs={shown(num_outputs)} must be a whole number, at least 1.")
    sides = tuple(input_shape) if isinstance(input_shape, tuple | list | torch.Size) else ()
    if not sides or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise ConfigurationError(
            f"input_shape={shown(input_shape)} must be whole numbers, at least 1 each: (channels, height, width)."
        )
    if isinstance(network, str):
        wide = re.fullmatch(r"wrn-(\d{1,3})-(\d{1,3})", network)
        if len(sides) != 3 and (wide or network in IMAGES_ONLY):
            raise ConfigurationError(
                f"network={network!r} takes images, (channels, height, width), and inputs are {list(sides)}. Use 'fc' "
                "or 'fc_bn' for vectors, or a builder of your own."
            )
        four = re.fullmatch(r"conv4-(\d{1,4})(-strided)?", network)
        if four and int(four[1]):
            return conv4(sides, num_outputs, channels=int(four[1]), strided=four[2] is not None)
        if words := re.fullmatch(r"transformer-([1-9]\d{0,4})-([1-9]\d{0,2})", network):
            return Transformer(sides, num_outputs, width=int(words[1]), blocks=int(words[2]))
        if re.fullmatch(r"tanh(-[1-9]\d{0,4})+", network):
            return tanh_mlp(sides, num_outputs, [int(width) for width in network.split("-")[1:]])
        if wide:
            return WideResNet((sides[0], sides[1], sides[2]), num_outputs, depth=int(wide[1]), width=int(wide[2]))
        if network not in NETWORKS and widths_of(network):
            return layered(network, sides, num_outputs)
        if network not in NETWORKS and ":" not in network:
            raise UnknownNameError(
                f"No network is called {shown(network)}.{did_you_mean(network, [*NETWORKS, *EXAMPLES])}\n"
                f"Known: {', '.join(NETWORKS)}, wrn-d-k, mlp-w, tanh-w, cpcpcrcs-w-w-w, conv4-w, "
                "transformer-w-d."
            )
        network = NETWORKS[network]
    if isinstance(network, nn.Module):
        raise ConfigurationError(
            f"network is a {type(network).__name__} instance. Every episode starts a new network: pass a function "
            "(input_shape, num_outputs) -> nn.Module instead."
        )
    try:
        module = network(input_shape, num_outputs)
    except (GarEnvError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of somebody's code
        raise ConfigurationError(
            f"Building the network for {num_outputs} outputs of inputs {list(input_shape)} failed: "
            f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:300]}\nA builder takes (input_shape, "
            "num_outputs) and returns an nn.Module."
        ) from error
    if not isinstance(module, nn.Module):
        raise ConfigurationError(
            f"network must build an nn.Module from (input_shape, num_outputs); it returned {type(module).__name__}."
        )
    for name, p in module.named_parameters():
        odd = "not initialised" if isinstance(p, nn.parameter.UninitializedParameter) else ""
        odd = odd or ("on the meta device" if p.is_meta else "complex" if p.is_complex() else "")
        if odd:
            raise ConfigurationError(f"The network's parameter {name} is {odd}. Build one that can be trained at once.")
    return module
