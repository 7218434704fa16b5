"""Rejecting rules without training them: does the update of a rule agree with the next batch's gradient?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gar_env.errors import ConfigurationError
from gar_env.functional import own_surroundings
from gar_env.learner import LearnerStack
from gar_env.learner.update_rules import Momentum
from gar_env.optimizers.children import Children
from gar_env.optimizers.draws import Draws
from gar_env.optimizers.interpreter import Interpreter, Slab, flat, remember
from gar_env.optimizers.rule import Rule
from gar_env.registry import shown

THRESHOLD = 0.05
"""Rules with less are rejected. Read off 500 random rules on digits; see docs/optimizer_search.md for what it keeps."""

AT_ONCE = 256
MOMENTUM, STEP_SIZE = 0.9, 0.1


class SharedTrajectory:
    """One child's training by momentum, on which any rule can be scored: no pass of its own, no step size.

    In step ``t`` every rule sees the gradient ``g_t`` and the parameters ``theta_t``, and keeps its own running means.
    Its score is the mean over steps of the cosine of its update with the next batch's gradient at ``theta_t``: gradient
    alignment, with an update in the place of an example's gradient. Validation data are not used.

    Args:
        children: What is trained.
        seed: Of the child.
        steps: How many, at least 1.

    Raises:
        ConfigurationError: If ``steps`` is out of range, or training by momentum is not finite.

    Example:
        >>> from gar_env.optimizers.child_options import ChildOptions
        >>> scores = SharedTrajectory(Children(ChildOptions()), seed=0).scores([Rule("Adam"), Rule("-g"), Rule("1")])
        >>> [bool(score > THRESHOLD) for score in scores]
        [True, False, False]
    """

    @own_surroundings()
    def __init__(self, children: Children, seed: int, *, steps: int = 10) -> None:
        if type(steps) is not int or steps < 1:
            raise ConfigurationError(f"steps={steps!r} must be a whole number, at least 1.")
        self.children, self.seed = children, seed
        stack = LearnerStack(
            children.build, [seed], rule=Momentum(MOMENTUM), loss=children.losses, device=children.device
        )
        batches = children.batches(seed)
        batch, step_size = next(batches), torch.tensor([STEP_SIZE], device=children.device)
        self.points: list[tuple[Tensor, Tensor, Tensor]] = []
        """``(g_t, theta_t, next batch's gradient at theta_t)``, ``[1, P]`` each."""
        for _ in range(steps):
            following = next(batches)
            one, ahead = (stack.run(*(part[None] for part in some)) for some in (batch, following))
            names = list(one.gradient)
            self.points.append(
                (
                    flat([one.gradient[name] for name in names], 1),
                    flat([stack.parameters[name] for name in names], 1),
                    flat([ahead.gradient[name] for name in names], 1),
                )
            )
            self.width = sum(one.gradient[name].numel() for name in names)
            stack.move(stack.direction(one.gradient), step_size)
            batch = following
        if not all(bool(part.isfinite().all()) for point in self.points for part in point):
            raise ConfigurationError(
                f"Training by momentum with a step size of {STEP_SIZE} is not finite for "
                f"{shown(children.options.network)} on {children.data.name}, so nothing can be "
                "screened on it. Use screen=None."
            )

    @torch.no_grad()
    def scores(self, rules: Sequence[Rule]) -> Tensor:
        """Mean cosines ``[rules]`` in [-1, 1], on the CPU; -1 of a rule that is not finite, 0 of one that is zero."""
        parts = [self._scores(rules[at : at + AT_ONCE]) for at in range(0, len(rules), AT_ONCE)]
        return torch.cat(parts) if parts else torch.empty(0)

    def _scores(self, rules: Sequence[Rule]) -> Tensor:
        options, n = self.children.options, len(rules)
        g, _, _ = self.points[0]
        draws = Draws(self.seed, self.width, g.shape[1], g.device)
        slabs = [Slab(slice(i, i + 1), rule.steps, rule.memory, draws) for i, rule in enumerate(rules)]
        interpreter = Interpreter(slabs, options.semantics, options.total_steps)
        names = {name for rule in rules for name in rule.memory}
        memory = {name: torch.zeros_like(g) for name in names}  # the same for all rules: of the same gradients
        total = torch.zeros(n, device=g.device)
        for step, (g, w, following) in enumerate(self.points):
            memory = remember(g, memory, options.semantics)
            taken = torch.full((n,), step, device=g.device)
            all_rows = {name: value.expand(n, -1) for name, value in memory.items()}
            u = interpreter.updates(g.expand(n, -1), w.expand(n, -1), all_rows, taken)[:, : self.width]
            total += torch.nn.functional.cosine_similarity(
                u.double(), following[:, : self.width].double(), dim=1
            ).float()
        return (total / len(self.points)).nan_to_num(-1.0, -1.0, -1.0).cpu()
