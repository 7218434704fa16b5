"""Options of ``GAR/GradientAgreement-v0``."""

from __future__ import annotations

from dataclasses import dataclass, fields

from gar_env.agreement import AgreementRule, build_agreement_rule
from gar_env.agreement.combine import NORMALISATIONS
from gar_env.data import Dataset
from gar_env.data.tasks import TaskSource
from gar_env.data.tasks.corruptions import parse_task_shares
from gar_env.envs.config import SharedConfig
from gar_env.errors import ConfigurationError
from gar_env.learner.adaptation import AdaptationOptions
from gar_env.networks.build import NetworkBuilder
from gar_env.registry import check_choice, shown
from gar_env.rewards import RewardSignal

ONLY = {"precision": "float32", "way": "auto", "batch_norm": "share", "channels_last": False}
"""Options of one network's passes, which adapting to tasks does not have."""


@dataclass(frozen=True)
class GradientAgreementConfig(SharedConfig, AdaptationOptions):
    """Options of ``GAR/GradientAgreement-v0``.

    Args:
        num_steps: Meta-batches in an episode.
        reward: ``"inner_gar"``, ``"agreement"``, ``"agreement_others"``, ``"next_update"``, ``"heldout_update"``,
            ``"nslr"``; or an object.
        baseline: How much of the meta-batch's mean signal a task must have to be worth keeping: it is paid by how much
            its signal is above ``baseline`` times the mean. 1: to drop a task pays what an average one does; 0:
            whatever is above 0 pays for keeping a task. Signals that are the same for all are paid as they are.
        optimizer: Of the meta-gradient; any of ``torch.optim`` by name.
        step_size: Of that optimizer.
        weight_decay: Of that optimizer.
        schedule: ``"linear"`` to 0, ``"constant"`` or ``"cosine"``.
        tasks: ``"sine"``, ``"sine_maml"``, or classes of any data: ``"digits"``, ``"omniglot"``, the path of an
            ``.npz`` file or an image folder; or a :class:`~gar_env.data.tasks.TaskSource`.
        ways: Classes of a task.
        shots: Support examples of a task; where there are classes, of each.
        queries: Query examples, likewise; with ``"reptile"`` they are not used in training.
        rotations: Whether turned images are other classes.
        download: Whether torchvision may fetch the data.
        image_size: Height and width to resize an image folder to.
        inputs: Of images: ``"unit"``, ``"symmetric"`` or ``"standardised"``.
        corrupt: Of tasks: ``"shuffled_targets(0.3)"``, ``"noise(0.3)"``, ``"random_labels(0.3)"``, each with its
            chance; none by default, and never of those to test on.
        network: A name, or a function ``(input_shape, num_outputs) -> nn.Module``.
        weight_levels: Actions: 2 are drop and keep, k are k evenly spaced weights from 0 to 1, and 0 is ``Box(-1, 1)``.
        rule: What combines the weighed updates: ``"uniform"``, or another agreement rule, such as ``"damped(0.1)"``,
            ``"pcgrad"``, ``"agreement"`` or ``"torchjd:MGDA"``.
        normalise: How long the combined update is: ``"mean"``: as that of weights that add up to 1. ``"length"``: as
            the mean of all that are kept. ``"l1"``: as that of weights whose sizes add up to 1 (the paper). ``"none"``:
            dropped tasks make it shorter. By default ``"mean"``, and ``"l1"`` with ``weight_levels=0``.
        test_steps: Inner steps of tasks to test on; ``inner_steps`` by default.
        test_shots: Their support examples; ``shots`` by default.
        test_tasks: How many are tested on, at the end of an episode; the same for all seeds.
        transductive: Whether their queries share batch statistics.

    Raises:
        ConfigurationError: If options contradict each other.
    """

    num_steps: int = 500
    reward: str | RewardSignal = "inner_gar"
    baseline: float = 1.0
    optimizer: str = "adam"
    step_size: float = 3e-3
    momentum: float | None = None
    weight_decay: float = 0.0
    schedule: str = "linear"
    tasks: str | Dataset | TaskSource = "sine"
    ways: int = 5
    shots: int = 10
    queries: int = 10
    rotations: bool = False
    download: bool = False
    image_size: int | None = None
    inputs: str = "unit"
    corrupt: str = ""
    network: str | NetworkBuilder = "tanh-64-64"
    weight_levels: int = 2
    rule: str | AgreementRule = "uniform"
    normalise: str | None = None
    test_steps: int | None = None
    test_shots: int | None = None
    test_tasks: int = 200
    transductive: bool = True

    def __post_init__(self) -> None:
        SharedConfig.__post_init__(self)
        AdaptationOptions.__post_init__(self)
        if self.normalise is not None:
            check_choice("normalise", self.normalise, NORMALISATIONS)
        if self.normalise == "mean" and self.weight_levels == 0:
            raise ConfigurationError(
                "normalise='mean' divides by the sum of the weights, which is near 0 where some are negative. With "
                "weight_levels=0 use 'l1', 'length' or 'none'."
            )
        for name, only in ONLY.items():
            if getattr(self, name) != only:
                raise ConfigurationError(
                    f"{name}={shown(getattr(self, name))} says how one network passes examples; tasks are adapted to "
                    f"in float32, by task_way. Leave {name} out."
                )
        if self.test_shots is not None and isinstance(self.tasks, TaskSource):
            raise ConfigurationError("test_shots is of a source by name; tasks is a TaskSource. Leave test_shots out.")
        if not 0 <= self.baseline <= 1:
            raise ConfigurationError(f"baseline={self.baseline} must be in [0, 1]: a share of the mean signal.")
        build_agreement_rule(self.rule)
        parse_task_shares(self.corrupt)
        for name, least in (("shots", 1), ("queries", 1), ("test_tasks", 1)):
            if getattr(self, name) < least:
                raise ConfigurationError(f"{name}={getattr(self, name)} must be at least {least}.")
        for name in ("test_steps", "test_shots"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigurationError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.weight_levels != 0 and self.weight_levels < 2:
            raise ConfigurationError(
                f"weight_levels={self.weight_levels} must be at least 2, drop and keep, or 0 for any weight in [-1, 1]."
            )

    @property
    def resolved_momentum(self) -> float | None:
        """None for SGD: Reptile's outer step."""
        return 0.0 if self.momentum is None and self.optimizer.lower() == "sgd" else self.momentum

    @property
    def resolved_normalise(self) -> str:
        """The normalisation in force."""
        return self.normalise or ("mean" if self.weight_levels else "l1")

    @property
    def adaptation(self) -> AdaptationOptions:
        """Of the inner loops."""
        return AdaptationOptions(**{field.name: getattr(self, field.name) for field in fields(AdaptationOptions)})
