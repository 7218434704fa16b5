"""torch as this package needs it, whatever the caller has switched on, off, or to another default."""

from __future__ import annotations

import threading
from contextlib import ContextDecorator, ExitStack

import torch

from gar_env.seeding import TURNS

_here = threading.local()


class own_surroundings(ContextDecorator):
    """Inside, gradients are recorded, nothing is autocast, new tensors are float32 on the CPU; one thread at a time.

    Agents step environments under ``torch.no_grad()``, ``torch.inference_mode()`` or ``torch.autocast``, from several
    threads, and under defaults of their own; the networks in here train the same all the while. As a context or a
    decorator; inside another one of the same thread it does nothing.

    Example:
        >>> with torch.no_grad(), own_surroundings():
        ...     torch.is_grad_enabled()
        True
    """

    def _recreate_cm(self) -> own_surroundings:  # a decorated function may call itself, and run in several threads
        return type(self)()

    def __enter__(self) -> None:
        self._stack: ExitStack | None = None
        if getattr(_here, "depth", 0):
            return
        self._stack = stack = ExitStack()
        stack.enter_context(TURNS)
        try:
            # Each only where it is needed: this runs at every step of an environment.
            if torch.is_inference_mode_enabled():
                stack.enter_context(torch.inference_mode(False))
            if not torch.is_grad_enabled():
                stack.enter_context(torch.enable_grad())
            for kind in ("cpu", "cuda"):
                if torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, enabled=False))
            dtype = torch.get_default_dtype()
            if dtype is not torch.float32:
                stack.callback(torch.set_default_dtype, dtype)
                torch.set_default_dtype(torch.float32)
            if torch.empty(0).device.type != "cpu":
                stack.enter_context(torch.device("cpu"))
        except BaseException:
            stack.close()
            raise
        _here.depth = 1
        stack.callback(_leave)

    def __exit__(self, *exception: object) -> None:
        if self._stack is not None:
            self._stack.close()


def _leave() -> None:
    _here.depth = 0
