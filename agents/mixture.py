"""A learned mixture over sources of data, in a training loop of one's own: no environment."""

from __future__ import annotations

import copy
import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler

from agents.policies import Softmax
from agents.reinforce import Reinforce
from gar_env.alignment import Alignment, Tape, align, aligning, gradient
from gar_env.data.splits import draw_places
from gar_env.errors import CheckpointError, ConfigurationError, NonFiniteGradientError
from gar_env.functional import preserve
from gar_env.registry import shown
from gar_env.seeding import named_generator

Losses = Callable[[Any], Tensor]
"""From the network's output to each example's loss, ``[n]``."""


class LearnedMixture(Sampler[list[int]]):
    """Which source the next examples are drawn from, learned from how their gradients agree with a target's.

    Two calls stand around a training step: :meth:`record`, which is its forward and backward pass, and :meth:`pay`,
    after the optimizer has moved. Draw by :meth:`draw`, or as ``DataLoader(..., batch_sampler=mixture)``: batches are
    paid in the order in which they were drawn, also where workers draw ahead.

    Args:
        sources: By name: how many examples there are, numbered one source behind the other as in a ``ConcatDataset``;
            or their numbers, int64 ``[m]``.
        batch_size: n, examples in a batch.
        agent: Who learns; by default REINFORCE on a softmax with a floor of 0.1, its step size 0.02.
        seed: Of the draws.
        length: Batches of an epoch of the sampler; by default as many as there are examples for.
        way: Of :class:`gar_env.alignment.Alignment`.

    Raises:
        ConfigurationError: If there are fewer than two sources, or one of them is empty.

    Example:
        >>> mixture = LearnedMixture({"clean": 100, "noisy": 100}, batch_size=8)
        >>> x = torch.cat([torch.ones(100, 1), torch.randn(100, 1)])
        >>> network = nn.Linear(1, 1, bias=False)
        >>> optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        >>> for step in range(3):
        ...     losses = mixture.record(network, x[mixture.draw()], lambda out: (out[:, 0] - 2).square())
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        ...     rewards = mixture.pay(lambda: (network(torch.ones(4, 1)) - 2).square().mean())
        >>> losses.shape, rewards.shape, list(mixture.probabilities)
        (torch.Size([8]), torch.Size([8]), ['clean', 'noisy'])

    Source:
        Mueller, Biedenkapp & Hutter (2021), algorithm 1, with a target's gradient in the place of the next batch's:
        Wang et al. (2020); per source rather than per example: Fan, Grangier & Ablin (2024).
    """

    def __init__(
        self,
        sources: Mapping[str, int | Tensor],
        batch_size: int,
        *,
        agent: Reinforce | None = None,
        seed: int = 0,
        length: int | None = None,
        way: Any = "auto",
    ) -> None:
        self.names = tuple(sources)
        rows, start = [], 0
        for name, of in sources.items():
            given = torch.arange(start, start + of) if type(of) is int and of > 0 else of
            if not isinstance(given, Tensor) or given.dtype != torch.int64 or given.ndim != 1 or not len(given):
                raise ConfigurationError(
                    f"Source {name!r} is {shown(of)}; expected how many examples it has, at least 1, or their numbers, "
                    "int64 [m]."
                )
            rows.append(given)
            start += len(given)
        if len(rows) < 2 or type(batch_size) is not int or batch_size < 1:
            raise ConfigurationError(
                f"There are {len(rows)} sources and batch_size={shown(batch_size)}; a mixture needs 2 sources and a "
                "batch of 1 at least."
            )
        self.batch_size, self.way = batch_size, way
        self.rows = torch.cat(rows)
        self.sizes = torch.tensor([len(one) for one in rows])
        self.starts = self.sizes.cumsum(0) - self.sizes
        self.length = -(-len(self.rows) // batch_size) if length is None else length
        if type(self.length) is not int or self.length < 1:
            raise ConfigurationError(f"length={shown(length)} must be at least 1 batch.")
        self.agent = agent or Reinforce(Softmax(len(rows)), step_size=0.02, seed=seed)
        space = self.agent.policy.action_space
        slots: Any = SimpleNamespace(num_envs=batch_size, single_action_space=space, unwrapped=None)
        if getattr(space, "n", None) != len(rows):
            raise ConfigurationError(f"The agent chooses in {space}, and there are {len(rows)} sources.")
        if getattr(self.agent.policy, "observes", False):
            raise ConfigurationError(
                f"{type(self.agent.policy).__name__} looks at observations, and there are none. Use Softmax or Keep."
            )
        self.agent.begin(slots)
        self.generator = named_generator(seed, "data")
        self._alignment: Alignment | None = None
        self._tapes: deque[Tape | None] = deque()
        """Of the batches that were recorded and wait to be paid, in the order in which they were drawn."""

    def draw(self) -> Tensor:
        """The numbers of the next batch's examples, int64 ``[n]``. Batches are recorded in the order of their draws."""
        splits = self.agent.act(None).cpu()
        return self.rows[draw_places(splits, self.starts, self.sizes, self.generator)]

    def __iter__(self) -> Iterator[list[int]]:
        """An epoch: ``length`` batches. Those of another one that were drawn and not recorded are forgotten."""
        self.forget()
        for _ in range(self.length):
            yield self.draw().tolist()

    def __len__(self) -> int:
        """Batches of an epoch."""
        return self.length

    def forget(self) -> None:
        """Forget batches that were drawn and will not be recorded: an epoch that was left early, say."""
        self.agent.forget(self.agent.waiting - len(self._tapes))

    @property
    def probabilities(self) -> dict[str, float]:
        """Chance of each source."""
        policy: Any = self.agent.policy
        return dict(zip(self.names, policy.probabilities().tolist(), strict=True))

    def record(
        self, network: nn.Module, inputs: Any, losses: Losses, *, loss_scale: Any = 1.0, paid: bool = True
    ) -> Tensor:
        """Forward and backward of the mean loss of the batch drawn longest ago: ``.grad`` is there, or added to.

        Args:
            network: In training; under ``torch.autocast`` and ``DistributedDataParallel`` too.
            inputs: What it takes, examples first.
            losses: From its output to each example's loss, ``[n]``.
            loss_scale: What the gradient is multiplied by: a number, 1 / m where gradients of m batches accumulate, or
                a ``torch.amp.GradScaler``.
            paid: Whether this batch will be paid; of one that is not, nothing is kept, and it teaches nothing.

        Returns:
            Each example's loss, ``[n]``, detached.

        Raises:
            ConfigurationError: If there is no batch that was drawn and not recorded, or it has another size.
            AlignmentError: As :func:`gar_env.alignment.record`.
        """
        if self.agent.waiting <= len(self._tapes):
            raise ConfigurationError("record() is of a batch that was drawn: call draw(), or iterate, before it.")
        if self._alignment is None or self._alignment.network is not network:
            self._alignment = Alignment(network, way=self.way)
        tape = self._alignment.record(inputs, losses, loss_scale=loss_scale)
        if tape.n != self.batch_size:
            raise ConfigurationError(
                f"The batch has {tape.n} examples, and {self.batch_size} were drawn: each is paid for its own source. "
                "Pass the whole batch; with several devices, a mixture on each."
            )
        found = tape.losses.detach()
        self._tapes.append(tape if paid else None)
        return found

    def pay(self, loss: Callable[[], Tensor]) -> Tensor | None:
        """Pay the recorded batches by a target's gradient at the present parameters, and learn.

        Args:
            loss: Computes the mean loss of a batch of the target, by the network that was recorded. Nothing that it
                does to the network stays: gradients, running statistics.

        Returns:
            What the examples of the last batch are paid, ``[n]``; ``None`` if none was to be, or a gradient is not
            finite: then the batches teach nothing, as where a ``GradScaler`` skips their step.

        Raises:
            ConfigurationError: If nothing was recorded since the last call.
            AlignmentError: As :func:`gar_env.alignment.aligning`; the batches are forgotten.
        """
        if not self._tapes or self._alignment is None:
            raise ConfigurationError("pay() comes after record(): no batch waits to be paid.")
        network, tapes, rewards = self._alignment.network, list(self._tapes), None
        waiting = [tape for tape in tapes if tape is not None]
        found: dict[int, Tensor] = {}
        try:
            found = _aligned(network, waiting, loss) if waiting else {}
        except NonFiniteGradientError:
            pass
        finally:
            self._tapes.clear()
            for tape in tapes:
                rewards = found.get(id(tape))
                self.agent.learn_oldest(rewards)
        return rewards

    def state_dict(self) -> dict[str, Any]:
        """All that the next draws depend on: take it between :meth:`pay` and the next :meth:`record`.

        Raises:
            CheckpointError: If a batch was recorded and not paid.
        """
        if self._tapes:
            raise CheckpointError("A recorded batch waits to be paid. Take the state after pay().")
        agent = copy.deepcopy(self.agent.state_dict())
        return {"sources": self._identity, "agent": agent, "generator": self.generator.get_state()}

    @property
    def _identity(self) -> list[Any]:
        """Names and sizes, in order, and a fingerprint of the examples' numbers."""
        digest = hashlib.blake2b(self.rows.numpy().tobytes(), digest_size=8).hexdigest()
        return [[list(pair) for pair in zip(self.names, self.sizes.tolist(), strict=True)], digest]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state_dict` of a mixture of the same sources; batches drawn ahead are forgotten.

        Raises:
            CheckpointError: If its sources are others.
        """
        if not isinstance(state, Mapping) or set(state) != {"sources", "agent", "generator"}:
            raise CheckpointError(f"This is no state of a mixture: {shown(state)}.")
        (sources, numbers), (ours, own) = state["sources"], self._identity
        if sources != ours or numbers != own:
            what = f"the sources {sources}" if sources != ours else "other examples of the same sources"
            raise CheckpointError(f"The state is of {what}; here they are {ours}. Build the mixture as it was built.")
        self.agent.load_state_dict(state["agent"])
        self.agent.forget(self.agent.waiting)
        self.generator.set_state(state["generator"])
        self._tapes.clear()


def _aligned(network: nn.Module, tapes: list[Tape], loss: Callable[[], Tensor]) -> dict[int, Tensor]:
    """Each tape's alignment with the gradient of a loss, which leaves nothing behind."""
    with preserve(network):
        if len(tapes) == 1:
            with aligning(tapes[0]) as one:
                loss().backward()
            return {id(tapes[0]): one.entries}
        loss().backward()
        direction = gradient(network)
        return {id(tape): align(tape, direction) for tape in tapes}
