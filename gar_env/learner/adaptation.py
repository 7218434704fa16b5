"""A network adapted to N tasks at once: the inner loops of MAML and Reptile, with a task axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call, vmap

from gar_env.data.tasks import Tasks
from gar_env.errors import ConfigurationError, UnsupportedLayerError
from gar_env.functional import own_surroundings
from gar_env.learner.losses import LOSSES
from gar_env.learner.stacked_layers import Stacked, has_rules
from gar_env.registry import check_choice, check_positive, shown
from gar_env.state import plain

ALGORITHMS = ("fomaml", "reptile", "maml")
INNER_OPTIMIZERS = ("sgd", "adam")
WAYS = ("auto", "layers", "vmap", "one_by_one")

Parameters = dict[str, Tensor]
"""``{name: [N, ...]}``: row ``i`` belongs to task ``i``."""


@plain
class Adapted(NamedTuple):
    """What adapting to each task came to.

    Args:
        updates: ``theta - theta_i``, ``{name: [N, ...]}``.
        gradients: Each task's meta-gradient: for Reptile its update; for MAML that of its query loss after adapting, by
            the initial parameters (first order: by the adapted ones).
        first: What the task learned first, ``{name: [N, ...]}``: of Reptile its first inner steps, of MAML its update.
        fresh: What it should have learned after that: for Reptile its last inner steps, on other examples; for MAML its
            query gradient at ``theta``. ``None`` if nobody asked.
        before: Loss of each task before adapting, ``[N]``: on its queries, and NaN if nobody asked for ``fresh``; of
            Reptile on its first mini-batch.
        after: After it, ``[N]``: for Reptile on its last mini-batch, before the step on it.
        support: Of its first mini-batch before adapting, ``[N]``.
    """

    updates: Parameters
    gradients: Parameters
    first: Parameters
    fresh: Parameters | None
    before: Tensor
    after: Tensor
    support: Tensor

    @property
    def losses(self) -> Tensor:
        """Of each task after adapting, ``[N]``."""
        return self.after


@dataclass(frozen=True)
class AdaptationOptions:
    """How a network is adapted to a task.

    Args:
        algorithm: ``"fomaml"``, ``"reptile"`` or ``"maml"`` (second order).
        inner_steps: Of gradient descent, K.
        inner_step_size: Of each.
        inner_batch: Examples of each step, fresh ones as long as there are any; ``None`` is the whole support set in
            every step.
        inner_optimizer: ``"sgd"``, or ``"adam"`` with ``beta_1 = 0``, as Reptile has it.
        task_way: ``"layers"``: parameters with a task axis, layer by layer. ``"vmap"``: by ``torch.func``.
            ``"one_by_one"``: a loop over tasks. ``"auto"``: layers where all have rules, else vmap.

    Raises:
        ConfigurationError: If an option is out of range, or contradicts another.

    Source:
        Finn, Abbeel & Levine (2017); Nichol, Achiam & Schulman (2018).
    """

    algorithm: str = "fomaml"
    inner_steps: int = 5
    inner_step_size: float = 0.02
    inner_batch: int | None = None
    inner_optimizer: str = "sgd"
    task_way: str = "auto"

    def __post_init__(self) -> None:
        check_choice("algorithm", self.algorithm, ALGORITHMS)
        check_choice("inner_optimizer", self.inner_optimizer, INNER_OPTIMIZERS)
        check_choice("task_way", self.task_way, WAYS)
        if type(self.inner_steps) is not int or self.inner_steps < 1:
            raise ConfigurationError(f"inner_steps={shown(self.inner_steps)} must be a whole number, at least 1.")
        check_positive("inner_step_size", self.inner_step_size)
        if self.inner_batch is not None and (type(self.inner_batch) is not int or self.inner_batch < 1):
            raise ConfigurationError(f"inner_batch={shown(self.inner_batch)} must be a whole number, at least 1.")
        if self.algorithm == "maml" and self.inner_optimizer == "adam":
            raise ConfigurationError(
                "algorithm='maml' differentiates through its inner steps, and those of Adam have no derivative where a "
                "gradient is 0. Use inner_optimizer='sgd', or algorithm='fomaml'."
            )


class Adapter:
    """Adapts copies of a network to tasks; the network itself stays as it is.

    Args:
        network: Whose present parameters every task begins with.
        options: How.
        loss: A registered loss.
        fresh: Whether :attr:`Adapted.fresh` is wanted: for MAML one more gradient.

    Raises:
        UnsupportedLayerError: If tasks cannot be kept apart in this network.

    Example:
        >>> from gar_env.data.tasks import SineTasks
        >>> tasks = SineTasks(shots=10).draw(4, torch.Generator().manual_seed(0), queries=10)
        >>> adapter = Adapter(nn.Linear(1, 1), AdaptationOptions(), "squared_error")
        >>> adapted = adapter.adapt(tasks, torch.Generator().manual_seed(0))
        >>> adapted.updates["weight"].shape, bool((adapted.after < adapted.before).all())
        (torch.Size([4, 1, 1]), True)
    """

    def __init__(self, network: nn.Module, options: AdaptationOptions, loss: str, *, fresh: bool = True) -> None:
        self.network, self.options, self.fresh = network, options, fresh
        self.loss = LOSSES[loss]
        _check_apart(network)
        self.trained = tuple(name for name, p in network.named_parameters() if p.requires_grad)
        self.way = _way_for(network, options.task_way)
        # Of Adam, kept from one meta-batch to the next as in Reptile's code: the mean over tasks.
        self.second_moments: dict[str, Tensor] = {}
        self.inner_count = 0

    def state_dict(self) -> dict[str, Any]:
        """What goes on from one meta-batch to the next."""
        return {"second_moments": dict(self.second_moments), "inner_count": self.inner_count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state_dict`."""
        device = next(self.network.parameters()).device
        self.second_moments = {name: value.to(device) for name, value in state["second_moments"].items()}
        self.inner_count = int(state["inner_count"])

    @own_surroundings()
    def adapt(self, tasks: Tasks, generator: Generator, *, remember: bool = True) -> Adapted:
        """Adapt to each task, by the options.

        Args:
            tasks: N of them.
            generator: Of inner mini-batches, on the CPU.
            remember: Whether Adam's second moments go on from here.

        Raises:
            ConfigurationError: If the network does not fit the tasks, or one has fewer examples than a mini-batch.
        """
        options = self.options
        start = self._start(len(tasks.inputs))
        batches = self._batches(tasks, generator)
        half = max(1, options.inner_steps // 2)
        parameters, middle, losses = start, start, []
        moments = self._moments(start)
        for step, (x, t) in enumerate(batches):
            parameters, loss = self._step(parameters, x, t, moments, step, second=options.algorithm == "maml")
            losses.append(loss.detach())
            middle = parameters if step + 1 == half else middle
        if remember:
            self._remember(moments, updates_of=parameters)
            self.inner_count += len(batches)
        updates = _difference(start, parameters)
        if options.algorithm == "reptile":
            fresh = _difference(middle, parameters) if self.fresh and options.inner_steps > 1 else None
            return Adapted(updates, updates, _difference(start, middle), fresh, losses[0], losses[-1], losses[0])
        x, t = tasks.query_inputs, tasks.query_targets
        before, fresh = self._gradient(start, x, t) if self.fresh else (torch.full_like(losses[0], torch.nan), None)
        after = self._losses(parameters, x, t)
        by = start if options.algorithm == "maml" else parameters
        gradients = self._grad(after, by, second=False)
        return Adapted(updates, gradients, updates, fresh, before.detach(), after.detach(), losses[0])

    @own_surroundings()
    def test(
        self, tasks: Tasks, generator: Generator, *, steps: int | None = None, transductive: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Adapt to the support sets, and judge by the queries.

        Args:
            tasks: N of them.
            generator: Of inner mini-batches, on the CPU.
            steps: Of adaptation; those of the options by default.
            transductive: Whether queries are seen at once, in one batch whose statistics they share; else each with the
                support set alone. Without batch normalisation the same.

        Returns:
            Losses ``[N]`` and accuracies ``[N]``.
        """
        parameters = self._start(len(tasks.inputs))
        moments = self._moments(parameters)
        for step, (x, t) in enumerate(self._batches(tasks, generator, steps, at_most=True)):
            parameters, _ = self._step(parameters, x, t, moments, step, second=False)
        with torch.no_grad():
            outputs = self._answers(parameters, tasks, transductive=transductive)
        losses, accuracies = [], []
        for own, targets in zip(outputs, tasks.query_targets, strict=True):
            kind = self.loss(targets)
            losses.append(kind(own).mean())
            accuracies.append(kind.accuracy(own).to(own.dtype).mean())
        return torch.stack(losses), torch.stack(accuracies)

    def _answers(self, parameters: Parameters, tasks: Tasks, *, transductive: bool) -> Tensor:
        queries = tasks.query_inputs
        if transductive or not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.network.modules()):
            return self._run(parameters, queries)
        alone = [
            self._run(parameters, torch.cat([tasks.inputs, queries[:, q : q + 1]], 1))[:, -1:]
            for q in range(queries.shape[1])
        ]
        return torch.cat(alone, 1)

    # Inner steps

    def _start(self, n: int) -> Parameters:
        parameters = {}
        for name, p in self.network.named_parameters():
            row = p.detach().expand(n, *p.shape)
            parameters[name] = row.clone().requires_grad_() if name in self.trained else row
        return parameters

    def _batches(
        self, tasks: Tasks, generator: Generator, steps: int | None = None, *, at_most: bool = False
    ) -> list[tuple[Tensor, Tensor]]:
        count, size = steps or self.options.inner_steps, self.options.inner_batch
        n, there = tasks.targets.shape[:2]
        if size is None or size == there or (at_most and size > there):
            return [(tasks.inputs, tasks.targets)] * count
        if size > there:
            raise ConfigurationError(
                f"inner_batch={size} is more than the {there} examples that a task has to adapt to. Use fewer, or more "
                "shots."
            )
        # Each pass over the support set is in a new order: examples are fresh as long as there are any.
        passes = -(-count * size // there)
        orders = torch.cat([torch.rand(n, there, generator=generator).argsort(1) for _ in range(passes)], 1)
        rows = torch.arange(n)[:, None]
        places = orders[:, : count * size].split(size, 1)
        return [(tasks.inputs[rows, place], tasks.targets[rows, place]) for place in places]

    def _step(
        self, parameters: Parameters, x: Tensor, t: Tensor, moments: Parameters, step: int, *, second: bool
    ) -> tuple[Parameters, Tensor]:
        losses = self._losses(parameters, x, t)
        gradient = self._grad(losses, parameters, second=second)
        size = self.options.inner_step_size
        if self.options.inner_optimizer == "adam":
            gradient = self._scaled(gradient, moments, self.inner_count + step + 1)
        if second:
            moved = [torch.add(parameters[name], g, alpha=-size) for name, g in gradient.items()]
        else:
            with torch.no_grad():
                there = [parameters[name] for name in gradient]
                moved = [p.requires_grad_() for p in torch._foreach_add(there, list(gradient.values()), alpha=-size)]
        return {**parameters, **dict(zip(gradient, moved, strict=True))}, losses

    def _scaled(self, gradient: Parameters, moments: Parameters, count: int) -> Parameters:
        """Adam's direction without momentum, in its step number ``count``."""
        decay, epsilon = 0.999, 1e-8
        left = 1 - decay**count
        for name, g in gradient.items():
            moments[name] = decay * moments[name] + (1 - decay) * g.square()
        return {name: g / ((moments[name] / left).sqrt() + epsilon) for name, g in gradient.items()}

    def _moments(self, parameters: Parameters) -> Parameters:
        if self.options.inner_optimizer != "adam":
            return {}
        zeros = {name: torch.zeros_like(parameters[name][0]) for name in self.trained}
        kept = self.second_moments or zeros
        return {name: kept[name].expand_as(parameters[name]) for name in self.trained}

    def _remember(self, moments: Parameters, updates_of: Parameters) -> None:
        if not moments:
            return
        flat = [p.detach().reshape(len(p), -1) for p in updates_of.values()]
        finite = torch.stack([p.isfinite().all(1) for p in flat]).all(0)
        if bool(finite.any()):  # one task that is not finite would spoil all that follow
            self.second_moments = {name: value[finite].mean(0) for name, value in moments.items()}

    # Passes

    def _losses(self, parameters: Parameters, x: Tensor, t: Tensor) -> Tensor:
        """Mean loss of each task, ``[N]``."""
        outputs = self._run(parameters, x)
        losses = self.loss(t.flatten(0, 1))(outputs.flatten(0, 1))
        return losses.view(t.shape[:2]).mean(1)

    def _gradient(self, parameters: Parameters, x: Tensor, t: Tensor) -> tuple[Tensor, Parameters]:
        losses = self._losses(parameters, x, t)
        return losses, self._grad(losses, parameters, second=False)

    def _grad(self, losses: Tensor, parameters: Parameters, *, second: bool) -> Parameters:
        leaves = [parameters[name] for name in self.trained]
        # The sum over tasks: each task's own gradient, for no parameter belongs to two.
        total = losses.sum()
        try:
            found = torch.autograd.grad(total, leaves, create_graph=second, allow_unused=True, materialize_grads=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise UnsupportedLayerError(
                f"A gradient of {type(self.network).__name__} cannot be had: {_first_line(error)} With "
                "algorithm='maml' it is differentiated once more; 'fomaml' does without."
            ) from error
        return dict(zip(self.trained, found, strict=True))

    def _run(self, parameters: Parameters, x: Tensor) -> Tensor:
        """Outputs ``[N, n, ...]`` of inputs ``[N, n, ...]``."""
        if self.way == "layers":
            return Stacked(parameters, {}, True, [], exact=False, keeping=False)(self.network, "", x)
        if self.way == "vmap":

            def call(own: Parameters, inputs: Tensor) -> Tensor:
                return functional_call(self.network, own, (inputs,))

            try:
                return vmap(call)(parameters, x)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                raise UnsupportedLayerError(
                    f"{type(self.network).__name__} cannot be adapted to several tasks at once by torch.func.vmap: "
                    f"{_first_line(error)} Use task_way='one_by_one'."
                ) from error
        rows = [{name: p[i] for name, p in parameters.items()} for i in range(len(x))]
        return torch.stack([functional_call(self.network, own, (x[i],)) for i, own in enumerate(rows)])


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")[:300]


def _difference(start: Parameters, end: Parameters) -> Parameters:
    return {name: p.detach() - end[name].detach() for name, p in start.items() if p.requires_grad}


def _check_apart(network: nn.Module) -> None:
    """Refuse what would carry something from one task to another, or from one step to the next."""
    for name, module in network.named_modules():
        what = f"{name or 'The network'}, a {type(module).__name__},"
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats:
            raise UnsupportedLayerError(
                f"{what} keeps running statistics, which tasks would share. Build it with track_running_stats=False: "
                "statistics of the batch, in every mode."
            )
        draws = isinstance(module, nn.RNNBase) and module.dropout
        if draws or (isinstance(module, nn.modules.dropout._DropoutNd) and module.p):
            raise UnsupportedLayerError(f"{what} draws dropout, and a task would depend on the others. Set p=0.")
    names = [name for name, _ in network.named_parameters(remove_duplicate=False)]
    tied = sorted(set(names) - {name for name, _ in network.named_parameters()})
    if tied:
        raise UnsupportedLayerError(f"{tied[0]} is a parameter that stands under another name too. Give each its own.")


def _way_for(network: nn.Module, way: str) -> str:
    if way in ("vmap", "one_by_one"):
        return way
    if has_rules(network):
        return "layers"
    if way == "layers":
        unknown = sorted({type(inner).__name__ for inner in network.modules() if not has_rules(inner)})
        raise UnsupportedLayerError(
            f"task_way='layers' needs a rule for every module; not so for {', '.join(unknown)}. Use task_way='vmap' or "
            "'one_by_one'."
        )
    return "vmap"
