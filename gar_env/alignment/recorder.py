"""The hooks of one recorded pass, and what they keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gar_env.alignment.choice import Choice, choose
from gar_env.alignment.direction import Direction
from gar_env.alignment.layers import Call, Unit, plan
from gar_env.alignment.materialise import call_and_materialise, can_materialise
from gar_env.alignment.rules import EXAMPLE_GRADIENTS, FRESH, OUTPUT_TANGENTS
from gar_env.alignment.tape import Kept, dot_per_example, read, working_dtype
from gar_env.alignment.unknown_layers import ReplayTaker
from gar_env.errors import MixedExamplesError, UnsupportedLayerError


@dataclass(eq=False)
class Deferred(Call):
    """A layer's input and its output's gradient, for an output tangent once the direction is known.

    Args:
        x: The input, perhaps in less precision.
        delta: The output's gradient.
        tangents: What the output tangent is computed in, if not what :func:`_tangent_dtype` says.
    """

    x: Kept
    delta: Tensor
    tangents: torch.dtype | None = None

    def entry(self, unit: Unit, direction: Direction) -> Tensor:
        """See :meth:`Call.entry`."""
        x, dtype = read(self.x, str(unit)), self.tangents or _tangent_dtype(self.delta)
        local = {
            name: direction[unit.parameters[name]] if name in unit.parameters else torch.zeros_like(value)
            for name, value in unit.module._parameters.items()
            if value is not None
        }
        # Half precision would lose a small direction altogether.
        size = torch.stack([t.abs().max() for t in local.values()]).max() if dtype.itemsize < 4 else None
        local = {name: (t if size is None else t / size).to(dtype) for name, t in local.items()}
        rule = OUTPUT_TANGENTS[type(unit.module)]
        tangent = rule(unit.module, x.to(dtype) if x.is_floating_point() else x, local)
        # Somebody else's rule may return its input, or a tensor that is expanded.
        entry = dot_per_example(tangent, self.delta, own=rule in FRESH)
        return entry if size is None else entry * size

    def kept(self) -> Iterable[Tensor]:
        """See :meth:`Call.kept`."""
        return (self.x.tensor, self.delta)


def _tangent_dtype(delta: Tensor) -> torch.dtype:
    """Mixed precision: float32 on CPUs, where half precision is no faster; on GPUs what the layer computed in."""
    return delta.dtype if delta.device.type == "cuda" else working_dtype(delta)


@dataclass(eq=False)
class ExampleGradients(Call):
    """Each example's gradients of a layer's parameters, ``{name inside the layer: [n, *shape]}``."""

    gradients: dict[str, Tensor]

    def entry(self, unit: Unit, direction: Direction) -> Tensor:
        """See :meth:`Call.entry`."""
        own = [(g.flatten(1), direction[unit.parameters[name]]) for name, g in self.gradients.items()]
        return torch.stack([g @ v.flatten().to(g.dtype) for g, v in own]).sum(0)

    def kept(self) -> Iterable[Tensor]:
        """See :meth:`Call.kept`."""
        return self.gradients.values()


class Recorder:
    """Hooks on a network's units, for one pass at a time.

    Args:
        autotune: Measure how each layer's part is best computed, see :mod:`gar_env.alignment.choice`.
        materialise: Whether weight gradients may be sums of per-example ones, equal but for rounding.
        kept: What layers' inputs are kept, and their tangents computed, in; as they are by default.
    """

    def __init__(self, *, autotune: bool = False, materialise: bool = True, kept: torch.dtype | None = None) -> None:
        self.autotune, self.materialise, self.kept = autotune, materialise, kept
        self.rows: int | None = None
        self.hooked = False
        self._units: dict[nn.Module, Unit] = {}
        self._choices: Mapping[str, Choice] = {}
        self._materialised: set[nn.Module] = set()  # whose call is recorded already when its hook comes
        self._taker = ReplayTaker(self.unit_of, self.check_rows)

    def attach(self, network: nn.Module) -> None:
        """Put the hooks in place for good, as a compiler has to see them; they rest until a pass is recorded."""
        for unit in plan(network):
            self._hook(unit, torch.compiler.disable, materialise=False)
        self.hooked = True

    @contextmanager
    def recording(self, units: list[Unit], rows: int | None, choices: Mapping[str, Choice]) -> Iterator[None]:
        """Inside, every call of a unit's module is kept.

        Args:
            units: Of this pass.
            rows: How many examples there are, if it is known before the losses are.
            choices: What is already decided, by unit name.
        """
        self._units, self.rows, self._choices = {unit.module: unit for unit in units}, rows, choices
        self._materialised.clear()
        self._taker.start()
        with ExitStack() as stack:
            stack.callback(self._units.clear)
            for unit in () if self.hooked else units:
                for undo in self._hook(unit):
                    stack.callback(undo)
            yield

    def _hook(
        self, unit: Unit, guard: Callable[[Any], Any] = lambda hook: hook, *, materialise: bool = True
    ) -> list[Callable[[], None]]:
        module = unit.module
        if unit.replayed:
            taker = self._taker
            # Before the hooks of others, which the replay runs again.
            before = module.register_forward_pre_hook(guard(taker.before), prepend=True, with_kwargs=True)
            return [before.remove, module.register_forward_hook(guard(taker.after)).remove]
        handle = module.register_forward_hook(guard(self._after_forward), with_kwargs=True)
        if not (materialise and self.materialise) or type(module) in EXAMPLE_GRADIENTS:
            return [handle.remove]
        plain = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            output = self._materialise(module, args, kwargs)
            return plain(*args, **kwargs) if output is None else output

        forward.in_passing = True  # pyright: ignore[reportFunctionMemberAccess] - no change of the network's structure
        module.forward = forward
        return [handle.remove, lambda: module.__dict__.pop("forward")]

    def unit_of(self, module: nn.Module) -> Unit | None:
        """The unit that records a module's calls at present."""
        return self._units.get(module)

    def _materialise(self, module: nn.Module, args: tuple, kwargs: dict) -> Tensor | None:
        """The module's output, if its weight's gradient is to be replaced by per-example ones."""
        unit, x = self.unit_of(module), _first(args, kwargs)
        if unit is None or self._taker.depth or not torch.is_grad_enabled() or not can_materialise(module, x):
            return None
        if (self._choices.get(unit.name) or choose(module, x, autotune=self.autotune)) == "deferred":
            return None

        def deliver(gradients: dict[str, Tensor]) -> None:
            self.check_rows(unit, len(x))
            unit.calls.append(ExampleGradients(gradients))

        self._materialised.add(module)
        return call_and_materialise(module, x, deliver)

    def _after_forward(self, module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
        unit = self.unit_of(module)
        if unit is None or self._taker.depth or not (torch.is_grad_enabled() and output.requires_grad):
            return
        self.check_rows(unit, len(output) if output.ndim else 0)
        if module in self._materialised:
            self._materialised.remove(module)
            return
        # One box per call, emptied when the gradient arrives: a closure over x would pin it until the graph dies.
        x = _first(args, kwargs)
        if self.kept and type(module) not in EXAMPLE_GRADIENTS and x.dtype in (torch.float32, torch.float64):
            x = x.detach().to(self.kept)
        box = [Kept(x)]
        output.register_hook(lambda delta: self._close(unit, box, delta))

    def _close(self, unit: Unit, box: list[Kept], delta: Tensor) -> None:
        if not box:
            raise UnsupportedLayerError(
                f"{unit} was differentiated twice in one pass: a gradient penalty, for example."
            )
        self.check_rows(unit, len(delta) if delta.ndim else 0)
        x = box.pop()
        rule = EXAMPLE_GRADIENTS.get(type(unit.module))
        if rule is None:
            # Tokens are kept as they are, and looking them up is no faster in half precision.
            unit.calls.append(Deferred(x, delta, self.kept if x.tensor.is_floating_point() else None))
        else:
            dtype = working_dtype(delta)
            gradients = rule(unit.module, x.tensor.to(dtype), delta.to(dtype))
            trained = {name: g for name, g in gradients.items() if name in unit.parameters}
            unit.calls.append(ExampleGradients(trained))

    def check_rows(self, unit: Unit, rows: int) -> None:
        """Refuse an output whose first dimension is not the batch."""
        if self.rows is not None and rows != self.rows:
            raise MixedExamplesError(
                f"{unit} returned {rows} rows for a batch of {self.rows} examples. With hooks, the first dimension of "
                "every layer with parameters must be the batch: keep [n, tokens, features] instead of merging or "
                "swapping its first two, and expand position indices to [n, tokens]."
            )


def _first(args: tuple, kwargs: dict) -> Any:
    return args[0] if args else next(iter(kwargs.values()))
