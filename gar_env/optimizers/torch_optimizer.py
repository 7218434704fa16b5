"""A formula as an optimizer of torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gar_env.errors import CheckpointError, ConfigurationError
from gar_env.optimizers.draws import Draws
from gar_env.optimizers.interpreter import Interpreter, Semantics, Slab, filled, flat, remember
from gar_env.optimizers.rule import Rule, build_optimizer_rule
from gar_env.registry import check_positive, shown


class RuleOptimizer(Optimizer):
    """Trains by a formula, in any training loop: with parameter groups, schedulers and ``state_dict``.

    On the CPU with one thread its steps are those of a row of :class:`StackedRules`, bit for bit. Random numbers are
    one draw for all parameters of all groups, in order; parameters without a gradient keep their place in it, and do
    not move.

    Args:
        params: Parameters, or groups of them, each with an ``lr`` of its own if wanted.
        rule: A rule, its name, or a formula.
        lr: Step size, above 0.
        total_steps: Length of training, for decays.
        seed: Of the rule's random numbers.
        semantics: What formulas leave open: betas, epsilon, bias correction.

    Raises:
        ConfigurationError: If an option is out of range, or the rule has a decay and there is no ``total_steps``.
        FormulaError: If the formula cannot be read.
    """

    def __init__(
        self,
        params: Iterable[Any],
        rule: str | Rule,
        lr: float,
        *,
        total_steps: int | None = None,
        seed: int = 0,
        semantics: Semantics = Semantics(),  # noqa: B008 - frozen
    ) -> None:
        if isinstance(lr, Tensor) and lr.numel() == 1:
            lr = float(lr)
        check_positive("lr", lr)
        self.rule, self.semantics = build_optimizer_rule(rule), semantics
        self.total_steps, self.seed = total_steps, seed
        self.rule.check_horizon(total_steps)
        super().__init__(params, {"lr": float(lr)})
        for group in self.param_groups:
            check_positive("lr", group["lr"])
            odd = sorted(group.keys() - {"params", "lr", "param_names"})
            if odd:
                raise ConfigurationError(
                    f"A parameter group has {odd[0]!r}, which the rule does not know. Leave it out."
                )
        self.taken = 0
        self._interpreters: dict[tuple[int, torch.device], Interpreter] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step along the rule.

        Raises:
            ConfigurationError: If gradients are sparse, or parameters are on several devices or of several types.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        everything = [p for group in self.param_groups for p in group["params"]]
        if all(p.grad is None for p in everything):
            return loss
        self._check(everything)
        g = flat([(torch.zeros_like(p) if p.grad is None else p.grad)[None] for p in everything], 1)
        w = flat([p[None] for p in everything], 1)
        memory = {
            name: flat([self.state[p].get(name, torch.zeros_like(p))[None] for p in everything], 1)
            for name in self.rule.memory
        }
        after = remember(g, memory, self.semantics)
        width = sum(p.numel() for p in everything)
        ages = flat([torch.full_like(p, self.state[p].get("age", 0), dtype=torch.int64)[None] for p in everything], 1)
        taken = torch.tensor([self.taken], device=g.device)
        u = -self._interpreter(width, g.device).updates(g, w, after, taken, ages)
        at = 0
        for group in self.param_groups:
            size = torch.as_tensor(group["lr"], dtype=g.dtype, device=g.device)
            for p in group["params"]:
                place = slice(at, at + p.numel())
                if p.grad is not None:
                    self.state[p]["age"] = self.state[p].get("age", 0) + 1
                    for name, value in after.items():
                        self.state[p][name] = value[0, place].view_as(p).clone()
                    p.copy_((size * u[0, place].view_as(p)).add_(p))
                at += p.numel()
        self.taken += 1
        return loss

    def _check(self, everything: list[Tensor]) -> None:
        kinds = {(p.device, p.dtype) for p in everything}
        if any(dtype in (torch.float16, torch.bfloat16) for _, dtype in kinds):
            raise ConfigurationError("Parameters are of half precision, in which epsilon is 0. Keep them in float32.")
        if len(kinds) > 1:
            raise ConfigurationError(
                "Parameters are on several devices or of several types; the rule reads all at once."
            )
        if any(p.grad is not None and p.grad.is_sparse for p in everything):
            raise ConfigurationError("A gradient is sparse. Use dense ones: Embedding(sparse=False).")

    def _interpreter(self, width: int, device: torch.device) -> Interpreter:
        if (width, device) not in self._interpreters:
            draws = Draws(self.seed, width, filled(width), device)
            slab = Slab(slice(0, 1), self.rule.steps, self.rule.memory, draws)
            self._interpreters[width, device] = Interpreter([slab], self.semantics, self.total_steps, "loop")
        return self._interpreters[width, device]

    def __getstate__(self) -> dict[str, Any]:
        own = ("rule", "semantics", "total_steps", "seed", "taken")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in own}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._interpreters = {}

    def state_dict(self) -> dict[str, Any]:
        """Of torch, with the rule and what it leaves open, how many steps were taken, and the seed."""
        return {**super().state_dict(), **self._identity, "taken": self.taken, "seed": self.seed}

    @property
    def _identity(self) -> dict[str, Any]:
        return {"rule": str(self.rule), "total_steps": self.total_steps, **asdict(self.semantics)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a :meth:`state_dict` of the same rule.

        Raises:
            CheckpointError: If it is of another rule, other options, or parameters of other shapes.
        """
        if Rule(state_dict.get("rule", "0")) != self.rule:
            raise CheckpointError(
                f"The state is of {shown(state_dict.get('rule'))}, and this optimizer follows {self.rule}."
            )
        for name, value in self._identity.items():
            before = state_dict.get(name)
            if name != "rule" and (tuple(before) if isinstance(before, list) else before) != value:
                raise CheckpointError(f"The state is of {name}={shown(before)}, and here it is {shown(value)}.")
        everything = [p for group in self.param_groups for p in group["params"]]
        for place, p in enumerate(everything):
            for value in state_dict["state"].get(place, {}).values():
                if isinstance(value, Tensor) and value.shape != p.shape:
                    raise CheckpointError(
                        f"The state of parameter {place} has the shape {list(value.shape)}, and the parameter "
                        f"{list(p.shape)}. Build the optimizer with the parameters that it had, in their order."
                    )
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        self.taken, self.seed = int(state_dict["taken"]), int(state_dict["seed"])
        self._interpreters.clear()
