"""REINFORCE on per-example rewards, within the training run that it steers."""

from __future__ import annotations

import copy
from collections import deque
from typing import Any, NamedTuple, Protocol

import torch
from gymnasium.spaces import Space
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from agents.normaliser import Normalisation, Normaliser
from agents.peers import Peers
from gar_env.envs.config import REWARD_TIMINGS
from gar_env.errors import CheckpointError, ConfigurationError, RewardError
from gar_env.registry import check_choice, check_positive, shown
from gar_env.seeding import named_generator


class Policy(Protocol):
    """A distribution over choices with learned logits, such as :class:`agents.policies.InvertedSoftmax`.

    A policy may have a method ``check(env)`` that raises where its actions mean something else.
    """

    logits: Tensor

    @property
    def action_space(self) -> Space:
        """Of one slot: what the environment must have."""
        ...

    def log_probability(self, actions: Tensor, logits: Tensor) -> Tensor:
        """Of actions ``[n, ...]`` that :meth:`sample` drew, under the logits it had then: ``[n]``, differentiable."""
        ...

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """int64 ``[n, ...]``."""
        ...


class LookingPolicy(Protocol):
    """A :class:`Policy` that depends on what rows observe, ``seen [n, d]``: :class:`agents.policies.LinearSoftmax`."""

    logits: Tensor
    observes: bool
    """True."""

    @property
    def action_space(self) -> Space:
        """Of one row."""
        ...

    def log_probability(self, actions: Tensor, logits: Tensor, seen: Tensor) -> Tensor:
        """See :class:`Policy`."""
        ...

    def sample(self, n: int, generator: torch.Generator, seen: Tensor) -> Tensor:
        """int64 ``[n, ...]``."""
        ...


class Unpaid(NamedTuple):
    """Actions that wait for their rewards.

    Args:
        actions: int64 ``[n, ...]``.
        logits: That they were drawn with.
        waiting: bool ``[n]``: whose reward may still come.
        seen: What each row observed, ``[n, d]``; ``None`` if the policy does not look.
    """

    actions: Tensor
    logits: Tensor
    waiting: Tensor
    seen: Tensor | None = None


class Reinforce:
    r"""Policy gradient ``sum_i r_i grad log p(a_i)``, summed over slots and ``aggregate`` steps, then one Adam step.

    Log-probabilities are those of the logits that the actions were drawn with, also when rewards come a step late.
    Everything stays on the policy's device.

    Args:
        policy: What to learn; its logits are the only parameters.
        reward_timing: Of the environment: ``"next_step"`` rewards pay the actions before the last.
        normalise: ``"step"``: minus mean, over standard deviation, within each step (the paper's for GAR).
            ``"running"``: by mean and deviation over all steps so far. ``"size"``: over the mean size within each step,
            signs as they are (for :class:`agents.policies.Keep`). ``"none"``: raw. Signals that are equal in all slots,
            such as NSLR, are erased by ``"step"``.
        aggregate: Rewarded steps per policy update.
        step_size: Of Adam.
        half_after: Updates after which the step size is half of that, a third after twice as many, and so on; ``None``:
            it stays.
        gradient_clip: Largest entry of the policy gradient, taken as a mean over slots and steps; ``None`` for any.
            (Adam does not see the factor between sum and mean.)
        seed: Of the actions.
        distributed: Whether this is one of several processes of ``torch.distributed``, each with as many slots of one
            large batch: rewards are normalised over all slots, policy gradients are added up, and every process holds
            the same policy, that of one process with all slots. The same seed everywhere.
        timeout: Seconds that a process waits for the others, if it is distributed: one that died or hangs ends all.

    Raises:
        ConfigurationError: If an option is unknown or out of range, or there is no process group.

    Source:
        Mueller, Biedenkapp & Hutter (2021), algorithm 1; Williams (1992) for the estimator.
    """

    def __init__(
        self,
        policy: Policy | LookingPolicy,
        *,
        reward_timing: str = "same_step",
        normalise: Normalisation = "step",
        aggregate: int = 1,
        step_size: float = 0.1,
        half_after: float | None = None,
        gradient_clip: float | None = None,
        seed: int = 0,
        distributed: bool = False,
        timeout: float = 300.0,
    ) -> None:
        check_choice("reward_timing", reward_timing, REWARD_TIMINGS)
        if type(aggregate) is not int or aggregate < 1:
            raise ConfigurationError(f"aggregate={shown(aggregate)} must be at least 1, and a whole number.")
        check_positive("step_size", step_size)
        if half_after is not None:
            check_positive("half_after", half_after)
        if gradient_clip is not None:
            check_positive("gradient_clip", gradient_clip)
        check_positive("timeout", timeout)
        self.peers = Peers(distributed=distributed, timeout=timeout)
        self._peers_are_alike = not distributed  # not known yet
        self._observes = getattr(policy, "observes", False)
        if self._observes and distributed:
            raise ConfigurationError(
                f"{type(policy).__name__} looks at observations, and processes see only their own. Use one process, or "
                "a policy that does not look."
            )
        self.policy = policy
        self.delay = 1 if reward_timing == "next_step" else 0
        self.reward_timing = reward_timing
        self.aggregate = aggregate
        self.gradient_clip = gradient_clip
        self.step_size, self.half_after = step_size, half_after
        self.optimizer = torch.optim.Adam([policy.logits], lr=step_size)
        self.generator = named_generator(seed, "policy", policy.logits.device)
        self._unpaid: deque[Unpaid] = deque()
        self._over: Tensor | None = None  # who ended in the last step
        self._resets_next = False  # whether those only reset in the next
        self._gradient = torch.zeros_like(policy.logits)
        self._collected = self._rows = 0  # steps and rewards in it
        self.normaliser = Normaliser(normalise, self.peers)

    def begin(self, env: VectorEnv) -> None:
        """See :class:`agents.Agent`. What was learned stays; unpaid actions are dropped.

        Raises:
            ConfigurationError: If the environment pays at another time than this agent expects, or has another number
                of choices than the policy.
        """
        timing = getattr(env.unwrapped, "reward_timing", self.reward_timing)
        if timing != self.reward_timing:
            raise ConfigurationError(
                f"The environment has reward_timing={timing!r}, the agent {self.reward_timing!r}: every reward would "
                f"be paid for the wrong action. Build Reinforce with reward_timing={timing!r}."
            )
        if env.single_action_space != self.policy.action_space:
            raise ConfigurationError(
                f"The policy's action is {self.policy.action_space}, the environment's {env.single_action_space}. "
                "Build the policy for this environment."
            )
        if check := getattr(self.policy, "check", None):
            check(env)
        self.num_envs = env.num_envs
        self._resets_next = getattr(env, "metadata", {}).get("autoreset_mode") is AutoresetMode.NEXT_STEP
        self._unpaid.clear()

    def act(self, observations: Any) -> Tensor:
        """int64 ``[n, ...]``; observations are used if the policy looks at them."""
        if not hasattr(self, "num_envs"):
            raise ConfigurationError("act() was called before begin(env), which says how many slots there are.")
        policy: Any = self.policy
        seen = self._as_table(observations) if self._observes else None
        looks = () if seen is None else (seen,)
        # All processes draw for all slots, each takes its own: the actions do not depend on how many there are.
        everywhere = policy.sample(self.peers.world * self.num_envs, self.generator, *looks)
        actions = everywhere[self.peers.rank * self.num_envs : (self.peers.rank + 1) * self.num_envs]
        waiting = torch.ones(self.num_envs, dtype=torch.bool, device=actions.device)
        self._unpaid.append(Unpaid(actions, self.policy.logits.detach().clone(), waiting, seen))
        return actions

    def learn(self, rewards: Any, ended: Any, infos: dict[str, Any]) -> None:
        """Add one step's policy gradient; every ``aggregate``-th time, move the logits.

        A row that was only reset teaches nothing, nor does one whose ``infos["reward_valid"]`` is False; the last
        actions of an episode are never paid with late rewards, and are forgotten.

        Args:
            rewards: ``[n]``.
            ended: bool ``[n]``: whose episode is over; False in a loop of your own that has no episodes.
            infos: Of the environment; :class:`agents.Agent`.

        Raises:
            DistributedError: If another process did not answer within the timeout.
            RewardError: If a reward is NaN or infinite, in any process, or there is not one for each slot.
        """
        acted, valid = self._told(ended, infos)
        if acted is not None:
            self._unpaid[-1].waiting.logical_and_(acted)
        if len(self._unpaid) > self.delay:
            paid = self._unpaid[-1 - self.delay]
            waiting = paid.waiting if valid is None else paid.waiting & valid
            whole = bool(waiting.all())
            if whole or bool(waiting.any()):
                self._add(self._as_numbers(rewards), paid, None if whole else waiting)
            while len(self._unpaid) > self.delay:
                self._unpaid.popleft()
        self._over = over = self._as_flags(ended)
        if over.any():
            for one in self._unpaid:
                one.waiting.logical_and_(~over)
            if over.all():
                self._unpaid.clear()

    @property
    def waiting(self) -> int:
        """How many steps' actions wait for their rewards."""
        return len(self._unpaid)

    def learn_oldest(self, rewards: Any) -> None:
        """Pay the actions that have waited longest, ``[n]``; ``None`` forgets them: for loops that draw ahead.

        Raises:
            ConfigurationError: If none wait.
            RewardError: As :meth:`learn`.
        """
        if not self._unpaid:
            raise ConfigurationError("No actions wait for rewards: act() comes first.")
        paid = self._unpaid.popleft()
        if rewards is not None:
            self._add(self._as_numbers(rewards), paid, None)

    def forget(self, count: int) -> None:
        """The last ``count`` actions will never be paid."""
        for _ in range(count):
            self._unpaid.pop()

    def _told(self, ended: Any, infos: dict[str, Any]) -> tuple[Tensor | None, Tensor | None]:
        """Whose actions counted, and whose rewards do; ``None`` for all.

        With SameStep autoreset the infos of rows that ended are those of their next episode; what their last step came
        to stands in ``final_info``.
        """
        if "reward_valid" not in infos and "final_info" not in infos:
            if not self._resets_next or self._over is None or not self._over.any():
                return None, None
            return ~self._over, ~self._over  # in this step they were only reset
        found = []
        for key in ("_reward_valid", "reward_valid"):
            flags = self._as_flags(infos[key]) if key in infos else torch.ones(self.num_envs, dtype=torch.bool)
            final = infos.get("final_info", {})
            if key in final:
                flags = torch.where(self._as_flags(ended), self._as_flags(final[key]), flags)
            found.append(flags.to(self.policy.logits.device))
        return found[0], found[0] & found[1]

    def _as_table(self, observations: Any) -> Tensor:
        """A copy: environments and loops may write into theirs."""
        table = torch.as_tensor(observations).to(self.policy.logits.device, torch.float32, copy=True)
        if table.ndim != 2 or len(table) != self.num_envs or not bool(table.isfinite().all()):
            raise ConfigurationError(
                f"observations are {shown(observations)}; the policy looks at finite numbers [{self.num_envs}, d]."
            )
        return table

    def _as_flags(self, flags: Any) -> Tensor:
        return torch.as_tensor(flags, dtype=torch.bool, device=self.policy.logits.device)

    def _as_numbers(self, rewards: Any) -> Tensor:
        try:
            given = torch.as_tensor(rewards)
            if given.is_complex() or given.layout is not torch.strided or given.is_meta:
                raise TypeError("they are complex, sparse, or on the meta device")
            return given.to(self.policy.logits.device, torch.float32)
        except (TypeError, ValueError, RuntimeError) as error:
            raise RewardError(f"rewards={shown(rewards)} cannot be read as real numbers: {error}") from error

    def _add(self, rewards: Tensor, paid: Unpaid, waiting: Tensor | None) -> None:
        n = self.num_envs
        if rewards.shape != (n,):
            raise RewardError(f"rewards have the shape {list(rewards.shape)}; expected [{n}], one number for each row.")
        if not self._peers_are_alike:
            logits = self.policy.logits
            numbers = {
                "slots": n,
                "steps per update (aggregate)": self.aggregate,
                "logits of the policy": logits.numel(),
            }
            self.peers.check_alike(numbers, logits.device)
            self._peers_are_alike = True
        actions, logits = paid.actions, paid.logits
        policy: Any = self.policy
        looks = () if paid.seen is None else (paid.seen if waiting is None else paid.seen[waiting],)
        if waiting is not None:
            rewards, actions = rewards[waiting], actions[waiting]
        count = n * self.peers.world if waiting is None else int(self.peers.summed(waiting.sum()))
        # Asked of all processes before anything else is: one that raised alone would leave the others waiting.
        wrong = int(self.peers.summed((~rewards.isfinite()).sum()))
        if wrong:
            raise RewardError(
                f"{wrong} of {count} rewards are NaN or infinite"
                f"{', counted over all processes' * (self.peers.world > 1)}."
            )
        logits.requires_grad_()
        objective = (self.normaliser(rewards, count) * policy.log_probability(actions, logits, *looks)).sum()
        self._gradient += torch.autograd.grad(objective, logits)[0]
        self._collected += 1
        self._rows += count
        if self._collected == self.aggregate:
            gradient = self.peers.summed(self._gradient)
            if self.gradient_clip is not None:
                bound = self.gradient_clip * self._rows
                gradient = gradient.clamp(-bound, bound)
            self.policy.logits.grad = -gradient
            if self.half_after is not None:
                taken = float(self.optimizer.state[self.policy.logits].get("step", 0))
                self.optimizer.param_groups[0]["lr"] = self.step_size / (1 + taken / self.half_after)
            self.optimizer.step()
            self._gradient = torch.zeros_like(self._gradient)
            self._collected = self._rows = 0

    def state_dict(self) -> dict[str, Any]:
        """All that its next actions and updates depend on."""
        return {
            "logits": self.policy.logits.detach().clone(),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "generator": self.generator.get_state(),
            "unpaid": [tuple(None if part is None else part.clone() for part in one) for one in self._unpaid],
            "over": self._over,
            "gradient": self._gradient.clone(),
            "collected": (self._collected, self._rows),
            "running": self.normaliser.running,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state_dict` of an agent that was built alike, bit for bit on the CPU.

        Raises:
            CheckpointError: If the policy has other logits.
        """
        logits, device = self.policy.logits, self.policy.logits.device
        if state["logits"].shape != logits.shape:
            raise CheckpointError(
                f"The state is of a policy with {list(state['logits'].shape)} logits; here there are "
                f"{list(logits.shape)}."
            )
        with torch.no_grad():
            logits.copy_(state["logits"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.generator.set_state(state["generator"])
        self._unpaid = deque()
        for one in state["unpaid"]:
            parts: list[Any] = [None if part is None else part.to(device, copy=True) for part in one]
            self._unpaid.append(Unpaid(*parts))
        self._over = None if state["over"] is None else state["over"].to(device)
        if state["gradient"].shape != logits.shape:
            raise CheckpointError("The state's gradient is of another policy.")
        self._gradient = state["gradient"].to(device, copy=True)
        self._collected, self._rows = map(int, state["collected"])
        self.normaliser.running = state["running"]
