from .agent import (
    Agent as Agent,
    train as train,
)
from .checks import (
    check_agent as check_agent,
)
from .domain_weights import (
    DomainWeights as DomainWeights,
)
from .mixture import (
    LearnedMixture as LearnedMixture,
)
from .policies import (
    DropSpoiled as DropSpoiled,
    FixedAugmentation as FixedAugmentation,
    FixedPolicy as FixedPolicy,
    InvertedSoftmax as InvertedSoftmax,
    Keep as Keep,
    LinearSoftmax as LinearSoftmax,
    OnlineAugmentation as OnlineAugmentation,
    SmallLoss as SmallLoss,
    Softmax as Softmax,
)
from .reinforce import (
    Reinforce as Reinforce,
)
from .value_regression import (
    ValueRegression as ValueRegression,
)

DISTRIBUTION: str
