"""How much each task of a meta-batch counts, from how their updates agree."""

from gar_env.agreement.combine import combine, gram, task_weights
from gar_env.agreement.rules import AGREEMENT_RULES, AgreementRule, build_agreement_rule, register_agreement_rule

__all__ = [
    "AGREEMENT_RULES",
    "AgreementRule",
    "build_agreement_rule",
    "combine",
    "gram",
    "register_agreement_rule",
    "task_weights",
]
