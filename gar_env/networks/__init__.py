"""Networks by name. A builder takes ``(image_shape, num_classes)`` and returns an ``nn.Module``.

The module maps float32 ``[n, channels, height, width]`` to logits ``[n, num_classes]``.
"""

from gar_env.networks.build import NETWORKS, build_network, register_network
from gar_env.networks.last_linear import LastLayer, LastLinearInputs
from gar_env.networks.paper import CNN_BN, FC, FC_BN
from gar_env.networks.wide_resnet import WideResNet

__all__ = [
    "CNN_BN",
    "FC",
    "FC_BN",
    "NETWORKS",
    "LastLayer",
    "LastLinearInputs",
    "WideResNet",
    "build_network",
    "register_network",
]
