"""Run passes through a network and leave the program as it was."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from gar_env.functional.kernels import draws_in_cudnn, without_cudnn
from gar_env.functional.owners import Function, is_ours
from gar_env.functional.state import State, swapped_in
from gar_env.seeding import RandomState


@contextmanager
def preserve(network: nn.Module, *functions: Function) -> Iterator[None]:
    """Inside, ``.grad`` starts empty; afterwards gradients, buffers, modes and attributes are as before, errors or not.

    The parameters are the network's own: hooks on them hear of the passes inside, and random numbers are drawn.

    Args:
        network: Whatever it holds.
        functions: What else the passes call: a loss with a state of its own.

    Example:
        >>> network = nn.BatchNorm1d(1)
        >>> with preserve(network):
        ...     _ = network(torch.ones(2, 1))
        >>> int(network.num_batches_tracked)
        0
    """
    state = State.of(network, functions)
    gradients = [(p, p.grad) for p in state.parameters]
    with swapped_in(state):
        for p, _ in gradients:
            p.grad = None
        try:
            yield
        finally:
            for p, gradient in gradients:
                p.grad = gradient


@contextmanager
def isolated(network: nn.Module, *functions: Function, dtype: torch.dtype | None = None) -> Iterator[None]:
    """Inside, the network is a copy of itself: nothing that passes through it do is left behind outside.

    It is one for the whole process: a thread that runs the same network meanwhile runs the copy.

    Parameters and buffers are copies without anybody's hooks, the state is one of its own, and random numbers are the
    next ones each time. Hooks of this package are off, others run on copies of what they hold, global module hooks too.

    Args:
        network: Whatever it holds.
        functions: As in :func:`preserve`.
        dtype: Of floating parameters and buffers meanwhile; their own by default.

    Raises:
        UncopiableStateError: If something that it holds cannot be copied.
    """
    stand_ins = {id(p): _stand_in(p, dtype) for p in network.parameters()}
    if dtype is not None:
        floating = [b for b in network.buffers() if b.is_floating_point() and b.dtype != dtype]
        stand_ins |= {id(b): b.detach().to(dtype) for b in floating}
    # A hook on a parameter may change its gradient; those that come after it is there may step, and stay behind.
    hooks = [(stand_ins[id(p)], hook) for p in network.parameters() for hook in (p._backward_hooks or {}).values()]
    hooks = [(p, hook) for p, hook in hooks if not is_ours(hook)]
    called = [*functions, *(hook for _, hook in hooks)]
    state = State.of(network, called, stand_ins=stand_ins, strict=True, without_ours=True)
    for p, hook in hooks:
        p.register_hook(hook)
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    # What cuDNN drew for dropout could not be put back.
    draws = any(map(draws_in_cudnn, network.modules()))
    kernels = without_cudnn() if draws else nullcontext()
    with RandomState.now(device).replayed(), kernels, swapped_in(state):
        yield


def call_with(network: nn.Module, parameters: Mapping[str, Tensor], *args: Any) -> Any:
    """The network's output with other parameters, differentiable in them; the network stays as it is.

    Unlike ``torch.func.functional_call``, for modules that stand under two names as well.

    Args:
        network: Its hooks run, but for those of this package.
        parameters: Keyed as in ``named_parameters()``; those left out are its own.
        *args: Of the network.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> call_with(nn.Sequential(layer), {"0.weight": torch.ones(1, 2)}, torch.tensor([[1.0, 2.0]]))
        tensor([[3.]])
    """
    stand_ins = {id(p): parameters[name] for name, p in network.named_parameters() if name in parameters}
    with swapped_in(State.of(network, stand_ins=stand_ins, without_ours=True)):
        return network(*args)


def _stand_in(p: nn.Parameter, dtype: torch.dtype | None) -> nn.Parameter:
    if type(p) is not nn.Parameter:
        return copy.deepcopy(p)  # a quantised or distributed one
    value = p.detach().clone(memory_format=torch.preserve_format)
    return nn.Parameter(value.to(dtype) if dtype and p.is_floating_point() else value, p.requires_grad)
