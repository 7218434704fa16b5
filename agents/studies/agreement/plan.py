"""Which runs there are: every rule at every outer step size on seeds to tune, then at two on others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from agents.jobs.results import Row
from agents.studies.agreement.cases import (
    ARMS,
    CONFOUND,
    CONFOUND_STEPS,
    CORRUPTED,
    PROTOCOLS,
    PUBLISHED,
    RULES,
    SEEDS_TO_TUNE,
    STEP_SIZES,
    Protocol,
)
from agents.studies.agreement.jobs import AgreementJob
from agents.studies.agreement.study import AgreementStudy
from agents.studies.agreement.tables import best_step_size
from gar_env.data.tasks import load_tasks
from gar_env.errors import ConfigurationError
from gar_env.registry import check_choice

PARTS = ("tune", "rules", "confound", "corrupted", "signals")
TUNED_ON = range(SEEDS_TO_TUNE, SEEDS_TO_TUNE + 2)


def agreement_jobs(study: AgreementStudy) -> list[AgreementJob]:
    """All runs but those of ``rules``, each of which waits for its rule's own best outer step size.

    Raises:
        ConfigurationError: If a name is unknown, or a number out of range.
        GarEnvError: Whatever loading the data raises.
    """
    check_choice("tasks", study.tasks, dict.fromkeys([*PROTOCOLS, *PUBLISHED]))
    if study.published and study.tasks not in PUBLISHED:
        raise ConfigurationError(f"There is no published protocol of tasks={study.tasks!r}. Leave published out.")
    for part in study.parts:
        check_choice("parts", part, PARTS)
    if study.seeds < 1 or (study.num_steps is not None and study.num_steps < 2):
        raise ConfigurationError(f"seeds={study.seeds} must be at least 1, and num_steps={study.num_steps} at least 2.")
    if study.tasks == "miniimagenet" and not study.data:
        raise ConfigurationError(
            "miniImageNet has to be there already: pass --data with an .npz file, or a folder that has a folder of "
            "images for each class under train/ and test/."
        )
    for _, protocol in _cases(study):  # what is wrong is said once and now
        own = {name: protocol.options[name] for name in ("ways", "queries", "rotations") if name in protocol.options}
        load_tasks(_data(study)["tasks"], shots=protocol.options["shots"], download=study.download, **own)
    jobs: list[AgreementJob] = []
    for name, protocol in _cases(study):
        options = _options(study, protocol.options)
        if "tune" in study.parts:
            for size in STEP_SIZES[options["optimizer"]]:
                jobs += _runs("tune", name, protocol, {**options, "step_size": size}, TUNED_ON, RULES)
        if "confound" in study.parts and study.tasks == "sine":
            for arm, size in CONFOUND.items():
                own = {**options, "step_size": size}
                own |= {} if study.num_steps else {"num_steps": CONFOUND_STEPS}
                jobs += _runs("confound", name, protocol, own, range(study.seeds), (arm,))
    if study.tasks in CORRUPTED and not study.published:
        _, case, tasks = CORRUPTED[study.tasks]
        options = {"step_size": 3e-3, "optimizer": "adam", **_options(study, case)}
        for seed in range(max(1, study.seeds // 2)):
            if "corrupted" in study.parts:
                jobs += [AgreementJob("corrupted", study.tasks, arm, seed, options, tasks) for arm in ARMS]
            if "signals" in study.parts:
                jobs.append(AgreementJob("signals", study.tasks, "uniform", seed, options, tasks))
    return jobs


def rules_jobs(study: AgreementStudy, rows: Sequence[Row]) -> list[AgreementJob]:
    """Every rule at its own best outer step size and at the common one.

    Args:
        study: The study.
        rows: That there are, those to tune by among them.
    """
    if "rules" not in study.parts:
        return []
    jobs: list[AgreementJob] = []
    for name, protocol in _cases(study):
        for arm in RULES:
            best = best_step_size(rows, name, arm)
            for size in dict.fromkeys([protocol.common, *([] if best is None else [best])]):
                own = {**_options(study, protocol.options), "step_size": size}
                jobs += _runs("rules", name, protocol, own, range(study.seeds), (arm,))
    return jobs


def _cases(study: AgreementStudy) -> list[tuple[str, Protocol]]:
    published = study.published or study.tasks not in PROTOCOLS
    known = (PUBLISHED if published else PROTOCOLS)[study.tasks]
    for case in study.cases:
        check_choice("cases", case, known)
    return [(name, protocol) for name, protocol in known.items() if not study.cases or name in study.cases]


def _data(study: AgreementStudy) -> dict[str, Any]:
    return {"tasks": study.data or study.tasks, "download": study.download, "device": study.device}


def _options(study: AgreementStudy, options: dict[str, Any]) -> dict[str, Any]:
    short = {} if study.num_steps is None else {"num_steps": study.num_steps}
    return {**options, **_data(study), **short}


def _runs(
    part: str, name: str, protocol: Protocol, options: dict[str, Any], seeds: Iterable[int], arms: Iterable[str]
) -> list[AgreementJob]:
    seeds = list(seeds)
    return [AgreementJob(part, name, arm, seed, options, protocol.tasks) for arm in arms for seed in seeds]


def expected(study: AgreementStudy, jobs: Sequence[Any]) -> str:
    """How long these runs will take: a few steps are taken of one run of each kind."""
    kinds: dict[tuple[str, str, str], AgreementJob] = {}
    steps: dict[tuple[str, str, str], int] = {}
    for job in jobs:
        kind = job.part, job.case, job.options["network"]
        kinds.setdefault(kind, job)
        steps[kind] = steps.get(kind, 0) + job.steps
    if not kinds:
        return ""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = sum(steps[kind] * job.seconds_a_step() for kind, job in kinds.items()) / max(1, study.processes)
    finally:
        torch.set_num_threads(threads)
    words = f"{seconds / 3600:.1f} hours" if seconds > 5400 else f"{seconds / 60:.0f} minutes"
    more = ", and then each rule at its own best outer step size" if "rules" in study.parts else ""
    return f"{len(jobs)} runs, about {words} at the speed of their first steps, what is there already included{more}."
