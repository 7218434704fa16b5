"""Policies over augmentations: the paper's online one, and published baselines that never learn."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.spaces import MultiDiscrete
from gymnasium.vector import VectorEnv
from torch import Generator, Tensor

from gar_env.augment import STRENGTHS, ActionLayout, Choices, SearchSpace, draw_operations
from gar_env.augment.spaces import check_strength, is_whole
from gar_env.errors import ConfigurationError
from gar_env.seeding import named_generator


class Distribution(NamedTuple):
    """What a policy over augmentations does, ``A`` operations.

    Args:
        num_operations: Chance of 1, 2, ... operations, ``[p]``.
        keep: Chance that an operation is applied when it is drawn, ``[A]``.
        strengths: Chance of each strength of an operation, ``[A, 31]``.
    """

    num_operations: Tensor
    keep: Tensor
    strengths: Tensor


class OnlineAugmentation:
    r"""``p(r) prod_j p(keep_j) p(strength_j | op_j)``, learned; operations are drawn uniformly without replacement.

    A categorical for the number of operations ``r``; for every operation a coin and a categorical over strengths.

    The log-probability is that of what was applied: places beyond ``r`` and strengths of operations that were not
    kept had no effect, and add nothing. No observation is used.

    Args:
        space: What to choose from.
        places: The most operations that an image can get.
        device: Of logits and actions.

    Raises:
        ConfigurationError: If there are more places than operations.

    Example:
        >>> from gar_env.augment import SPACES
        >>> policy = OnlineAugmentation(SPACES["ra"].subset(["rotate", "color"]), places=2)
        >>> policy.distribution().keep
        tensor([0.5000, 0.5000])

    Source:
        Mueller, Biedenkapp & Hutter (2021), the application to augmentation.
    """

    def __init__(self, space: SearchSpace, places: int = 4, device: torch.device | str = "cpu") -> None:
        _check_places(space, places)
        self.space, self.layout = space, ActionLayout(space, places)
        self.logits = torch.zeros(places + len(space) * (1 + STRENGTHS), device=device, requires_grad=True)

    @property
    def action_space(self) -> MultiDiscrete:
        """Of one slot."""
        return MultiDiscrete(np.array(self.layout.nvec))

    def check(self, env: VectorEnv) -> None:
        """Refuse an environment whose actions mean something else.

        Raises:
            ConfigurationError: With both search spaces.
        """
        theirs = layout_of(env)
        if (theirs.places, theirs.space.choices) != (self.layout.places, self.space.choices):
            raise ConfigurationError(
                f"The policy is over up to {self.layout.places} operations of {self.space.name!r}, the environment's "
                f"actions over up to {theirs.places} of {theirs.space.name!r} ({', '.join(theirs.space.names)}). "
                "Build it with env.unwrapped.space."
            )

    def _parts(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        count, keep, strengths = logits.split([self.layout.places, len(self.space), len(self.space) * STRENGTHS])
        return count, keep, strengths.view(len(self.space), STRENGTHS)

    def distribution(self) -> Distribution:
        """As it is now."""
        count, keep, strengths = self._parts(self.logits.detach())
        return Distribution(count.softmax(0), keep.sigmoid(), strengths.softmax(1))

    def set_distribution(self, num_operations: Tensor, keep: Tensor, strengths: Tensor) -> None:
        """Make it another: chances ``[p]``, ``[A]`` and ``[A, 31]``, such as those of a saved :class:`Distribution`.

        Raises:
            ConfigurationError: If they belong to another space or number of places, or are no chances.
        """
        found = [list(part.shape) for part in (num_operations, keep, strengths)]
        expected = [list(part.shape) for part in self.distribution()]
        if found != expected:
            raise ConfigurationError(f"num_operations, keep and strengths are {found}; this policy has {expected}.")
        for name, part in (("num_operations", num_operations), ("keep", keep), ("strengths", strengths)):
            sums = part.sum(-1) if name != "keep" else torch.ones(())
            if not bool(((part >= 0) & (part <= 1)).all()) or not torch.allclose(
                sums, torch.ones_like(sums), atol=1e-3
            ):
                raise ConfigurationError(
                    f"{name} are no chances: they must be in [0, 1]{' and add up to 1' if name != 'keep' else ''}."
                )
        tiny = torch.finfo(torch.float32).tiny
        parts = num_operations.clamp_min(tiny).log(), keep.logit(1e-7), strengths.clamp_min(tiny).log().flatten()
        with torch.no_grad():
            self.logits.copy_(torch.cat(parts))

    def probabilities(self) -> Tensor:
        """Chance of each operation to be applied to an image, ``[A]``."""
        now = self.distribution()
        numbers = torch.arange(1, self.layout.places + 1, device=now.keep.device)
        drawn = (now.num_operations * numbers).sum() / len(self.space)
        return drawn * now.keep

    def log_probability(self, actions: Tensor, logits: Tensor) -> Tensor:
        """Of actions int64 ``[n, 1 + 3 p]`` under given logits, up to a constant (the uniform draw): ``[n]``."""
        count, keep, strengths = self._parts(logits)
        chosen = self.layout.read(actions)
        decided = chosen.counted & ~chosen.repeated
        coins = torch.where(chosen.keep, 1.0, -1.0) * keep[chosen.operations]
        of_strength = strengths.log_softmax(1)[chosen.operations, chosen.strengths]
        per_place = torch.nn.functional.logsigmoid(coins) * decided + of_strength * chosen.applied
        return count.log_softmax(0)[chosen.num_operations - 1] + per_place.sum(1)

    def sample(self, n: int, generator: Generator) -> Tensor:
        """``n`` independent actions, int64 ``[n, 1 + 3 p]``; nothing waits for the device."""
        now = self.distribution()
        operations = draw_operations(self.space, n, self.layout.places, generator)

        def draw(chances: Tensor, *shape: int) -> Tensor:
            # The largest of log p + Gumbel noise is a draw; torch.multinomial checks its input and waits.
            noise = torch.rand(*shape, chances.shape[-1], generator=generator, device=chances.device)
            return (chances.log() - (-noise.clamp_min(1e-20).log()).clamp_min(1e-20).log()).argmax(-1)

        keep = torch.rand(operations.shape, generator=generator, device=operations.device) < now.keep[operations]
        strengths = draw(now.strengths[operations], *operations.shape)
        return self.layout.write(Choices(draw(now.num_operations, n) + 1, operations, keep, strengths))


class FixedAugmentation:
    """An agent that samples augmentations from one distribution, and never learns.

    Args:
        num_operations: How many for every image; ``None`` draws 1 to as many as the environment allows.
        strength: 0..30, the same for all; ``None`` draws uniformly.
        keep_probability: Chance of each to be applied.
        seed: Of its draws.

    Raises:
        ConfigurationError: If a number is out of range.
    """

    def __init__(
        self,
        *,
        num_operations: int | None = 2,
        strength: int | None = None,
        keep_probability: float = 1.0,
        seed: int = 0,
    ) -> None:
        if num_operations is not None and (not is_whole(num_operations) or num_operations < 1):
            raise ConfigurationError(f"num_operations={num_operations} must be a whole number, at least 1.")
        if strength is not None:
            check_strength(strength)
        if not 0 <= keep_probability <= 1:
            raise ConfigurationError(f"keep_probability={keep_probability} must be in [0, 1].")
        self.num_operations, self.strength, self.keep_probability = num_operations, strength, keep_probability
        self.seed = seed
        self.generator: Generator | None = None

    @classmethod
    def none(cls, *, seed: int = 0) -> FixedAugmentation:
        """No operation: what is left is the environment's crop, flip and Cutout."""
        return cls(num_operations=1, keep_probability=0.0, seed=seed)

    @classmethod
    def uniform_augment(cls, *, seed: int = 0) -> FixedAugmentation:
        """UniformAugment: two operations, each with chance one half, at any strength (LingChen et al., 2020)."""
        return cls(num_operations=2, keep_probability=0.5, seed=seed)

    @classmethod
    def rand_augment(cls, n: int = 2, m: int = 14, *, seed: int = 0) -> FixedAugmentation:
        """RandAugment: ``n`` operations at strength ``m`` (Cubuk et al., 2020), here without replacement."""
        return cls(num_operations=n, strength=m, seed=seed)

    @classmethod
    def trivial_augment(cls, *, seed: int = 0) -> FixedAugmentation:
        """TrivialAugment: one operation at any strength (Mueller & Hutter, 2021)."""
        return cls(num_operations=1, seed=seed)

    @classmethod
    def random(cls, *, seed: int = 0) -> FixedAugmentation:
        """Everything by chance, as an :class:`OnlineAugmentation` that has learned nothing."""
        return cls(num_operations=None, keep_probability=0.5, seed=seed)

    def begin(self, env: VectorEnv) -> None:
        """See :class:`agents.Agent`.

        Raises:
            ConfigurationError: If the environment's actions are no augmentations, or allow fewer operations.
        """
        self.layout = layout_of(env)
        if self.num_operations is not None and self.num_operations > self.layout.places:
            raise ConfigurationError(
                f"num_operations={self.num_operations}, but the environment applies {self.layout.places} at most. "
                "Raise its max_operations."
            )
        self.num_envs = env.num_envs
        if self.generator is None:
            self.generator = named_generator(self.seed, "policy", getattr(env.unwrapped, "device", "cpu"))

    def act(self, observations: Any) -> Tensor:
        """int64 ``[n, 1 + 3 p]``."""
        if self.generator is None:
            raise ConfigurationError("act() was called before begin(env), which says how many slots there are.")
        generator, device, places = self.generator, self.generator.device, self.layout.places
        operations = draw_operations(self.layout.space, self.num_envs, places, generator)
        if self.num_operations is None:
            count = torch.randint(1, places + 1, (self.num_envs,), generator=generator, device=device)
        else:
            count = torch.full((self.num_envs,), self.num_operations, device=device)
        if self.strength is None:
            strengths = torch.randint(STRENGTHS, operations.shape, generator=generator, device=device)
        else:
            strengths = torch.full_like(operations, self.strength)
        keep = torch.rand(operations.shape, generator=generator, device=device) < self.keep_probability
        return self.layout.write(Choices(count, operations, keep, strengths))

    def learn(self, rewards: Any, ended: Any, infos: dict[str, Any]) -> None:
        """Nothing to learn."""

    def state_dict(self) -> dict[str, Any]:
        """Its draws."""
        return {"generator": None if self.generator is None else self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state_dict`."""
        if state["generator"] is not None and self.generator is not None:
            self.generator.set_state(state["generator"])


def layout_of(env: VectorEnv) -> ActionLayout:
    """How an environment's actions name augmentations.

    Raises:
        ConfigurationError: If they do not.
    """
    layout = getattr(env.unwrapped, "layout", None)
    if not isinstance(layout, ActionLayout):
        raise ConfigurationError(
            f"{type(env.unwrapped).__name__} has other actions than augmentations. Use this controller on "
            "GAR/Augment-v0."
        )
    return layout


def _check_places(space: SearchSpace, places: int) -> None:
    if not is_whole(places) or not 1 <= places <= len(space):
        raise ConfigurationError(f"places={places} must be in 1..{len(space)}, the size of the space {space.name!r}.")
