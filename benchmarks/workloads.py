"""What is trained in the benchmarks: a network, batches of random examples, a loss per example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gar_env.networks import CNN_BN, FC, FC_BN, WideResNet, build_network

IMAGE = (3, 32, 32)
IMAGES = torch.randint(256, (4096, *IMAGE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def group_normalised(network: nn.Module) -> nn.Module:
    """Every batch normalisation replaced, for peers that cannot differentiate examples apart through one."""
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(network, name, nn.GroupNorm(min(8, child.num_features), child.num_features))
        else:
            group_normalised(child)
    return network


def cross_entropy_of_tokens(logits: Tensor, targets: Tensor) -> Tensor:
    """Each sequence's mean cross entropy, ``[n]``."""
    return F.cross_entropy(logits.transpose(1, 2), targets, reduction="none").mean(1)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Each image's cross entropy, ``[n]``."""
    return F.cross_entropy(logits, targets, reduction="none")


@dataclass(frozen=True)
class Workload:
    """One network and how it is fed.

    Args:
        build: Makes the network.
        n: Examples in a batch.
        length: Tokens in an example; 0 for images.
        channels_last: Memory format of network and images.
    """

    build: Callable[[], nn.Module]
    n: int
    length: int = 0
    channels_last: bool = False

    @property
    def losses(self) -> Callable[[Tensor, Tensor], Tensor]:
        """From output and targets to losses ``[n]``."""
        return cross_entropy_of_tokens if self.length else cross_entropy

    def network(self, device: str) -> nn.Module:
        """The same parameters every time."""
        torch.manual_seed(0)
        network = self.build().to(device)
        return network.to(memory_format=torch.channels_last) if self.channels_last else network

    def batch(self, generator: torch.Generator, device: str) -> tuple[Tensor, Tensor]:
        """Inputs and targets, new ones at every call."""
        if self.length:
            tokens = torch.randint(256, (self.n, self.length + 1), generator=generator)
            return tokens[:, :-1].to(device), tokens[:, 1:].to(device)
        rows = torch.randint(len(IMAGES), (self.n,), generator=generator)
        # As the environments do it: uint8 in memory, gathered and normalised for each batch.
        images = IMAGES.to(device)[rows.to(device)].float().div(127.5).sub(1)
        if self.channels_last:
            images = images.to(memory_format=torch.channels_last)
        return images, torch.randint(10, (self.n,), generator=generator).to(device)


def wide_resnet(depth: int, width: int) -> Callable[[], nn.Module]:
    """Builder of a WRN for ten classes of small images."""
    return lambda: WideResNet(IMAGE, 10, depth=depth, width=width)


def transformer(length: int) -> Callable[[], nn.Module]:
    """Builder of a causal language model of two blocks, 128 wide, on bytes."""
    return lambda: build_network("transformer-128-2", (length,), 256)


WORKLOADS = {
    "fc": Workload(lambda: FC(IMAGE, 10), 1000),
    "fc_bn": Workload(lambda: FC_BN(IMAGE, 10), 1000),
    "cnn_bn": Workload(lambda: CNN_BN(IMAGE, 10), 1000),
    "cnn_bn channels-last": Workload(lambda: CNN_BN(IMAGE, 10), 1000, channels_last=True),
    "cnn_gn": Workload(lambda: group_normalised(CNN_BN(IMAGE, 10)), 1000),
    "wrn-16-2": Workload(wide_resnet(16, 2), 64),
    "wrn-16-2 gn": Workload(lambda: group_normalised(wide_resnet(16, 2)()), 64),
    "wrn-28-10": Workload(wide_resnet(28, 10), 8),
    "transformer T=64": Workload(transformer(64), 32, length=64),
    "transformer T=256": Workload(transformer(256), 32, length=256),
}
