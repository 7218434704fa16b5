"""Studies: a folder for each table, with its command, its jobs and its figures; nothing else reads its rows."""

from agents.studies.agreement.study import AgreementStudy
from agents.studies.controllers.study import ControllersStudy
from agents.studies.invariances.study import InvariancesStudy
from agents.studies.mixture.study import MixtureStudy
from agents.studies.optimizers.study import OptimizersStudy
from agents.studies.rewards.study import RewardsStudy
from agents.studies.step_size.study import StepSizeStudy
from agents.studies.study import Study, run_study
from agents.studies.table1.study import Table1Study
from agents.studies.table2.study import Table2Study

__all__ = ["STUDIES", "Study", "run_study"]

STUDIES: dict[str, type[Study]] = {
    study.command: study
    for study in (
        Table1Study,
        Table2Study,
        StepSizeStudy,
        AgreementStudy,
        MixtureStudy,
        OptimizersStudy,
        ControllersStudy,
        InvariancesStudy,
        RewardsStudy,
    )
}
"""By command."""
