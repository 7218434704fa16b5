"""A network from its name, or from the user's own builder."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import nn

from gar_env.errors import ConfigurationError, GarEnvError, UnknownNameError
from gar_env.networks.paper import CNN_BN, FC, FC_BN
from gar_env.networks.small import SmallCNN
from gar_env.networks.wide_resnet import WideResNet
from gar_env.registry import Registry, did_you_mean, shown

NetworkBuilder = Callable[[tuple[int, int, int], int], nn.Module]

NETWORKS: Registry[NetworkBuilder] = Registry("network")
register_network = NETWORKS.register
register_network("fc")(FC)
register_network("fc_bn")(FC_BN)
register_network("cnn_bn")(CNN_BN)
register_network("cnn")(SmallCNN)


def build_network(network: str | NetworkBuilder, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Build a network with fresh parameters (drawn from torch's global generator, as modules do).

    Args:
        network: ``"fc"``, ``"fc_bn"``, ``"cnn_bn"``, ``"cnn"``, ``"wrn-d-k"`` with any published depth and width
            (``"wrn-28-10"``), a name registered with :func:`register_network`, ``"module:name"``, or a
            function ``(image_shape, num_classes) -> nn.Module``.
        image_shape: ``(channels, height, width)``.
        num_classes: How many logits.

    Raises:
        UnknownNameError: If there is no network of that name.
        ConfigurationError: If the builder returns something else than a module.

    Example:
        >>> build_network("wrn-16-2", (3, 32, 32), 10).widths
        (16, 32, 64, 128)
    """
    if not isinstance(num_classes, int) or num_classes < 1:
        raise ConfigurationError(f"num_classes={shown(num_classes)} must be a whole number, at least 1.")
    sides = tuple(image_shape) if isinstance(image_shape, tuple | list | torch.Size) else ()
    if len(sides) != 3 or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise ConfigurationError(
            f"image_shape={shown(image_shape)} must be (channels, height, width), at least 1 each."
        )
    if isinstance(network, str):
        wide = re.fullmatch(r"wrn-(\d{1,3})-(\d{1,3})", network)
        if wide:
            return WideResNet(image_shape, num_classes, depth=int(wide[1]), width=int(wide[2]))
        if not wide and network not in NETWORKS and ":" not in network:
            raise UnknownNameError(
                f"No network is called {shown(network)}.{did_you_mean(network, [*NETWORKS, 'wrn-16-2', 'wrn-28-10'])}\n"
                f"Known: {', '.join(NETWORKS)}, wrn-d-k."
            )
        network = NETWORKS[network]
    if isinstance(network, nn.Module):
        raise ConfigurationError(
            f"network is a {type(network).__name__} instance. Every episode starts a new network: pass a function "
            "(image_shape, num_classes) -> nn.Module instead."
        )
    try:
        module = network(image_shape, num_classes)
    except (GarEnvError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of somebody's code
        raise ConfigurationError(
            f"Building the network for {num_classes} classes of images {list(image_shape)} failed: "
            f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:300]}\nA builder takes (image_shape, "
            "num_classes) and returns an nn.Module."
        ) from error
    if not isinstance(module, nn.Module):
        raise ConfigurationError(
            f"network must build an nn.Module from (image_shape, num_classes); it returned {type(module).__name__}."
        )
    for name, p in module.named_parameters():
        odd = "not initialised" if isinstance(p, nn.parameter.UninitializedParameter) else ""
        odd = odd or ("on the meta device" if p.is_meta else "complex" if p.is_complex() else "")
        if odd:
            raise ConfigurationError(f"The network's parameter {name} is {odd}. Build one that can be trained at once.")
    return module
