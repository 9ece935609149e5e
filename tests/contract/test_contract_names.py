"""Operator and trainer each keep their own copy of the names between them; the copies agree."""

from __future__ import annotations

from typing import Any

import pytest
from deepseek_operator.api import names
from deepseek_operator.decide.report import PHASES
from deepseek_trainer import contract


def _constants(owner: type[Any]) -> dict[str, str]:
    return {name: value for name, value in vars(owner).items() if name.isupper()}


def test_the_environment_that_the_operator_sets_is_the_one_that_the_trainer_reads() -> None:
    operators, trainers = _constants(names.Env), _constants(contract.Env)
    assert {name: trainers.get(name) for name in operators} == operators


def test_only_what_the_agent_sets_itself_is_the_trainers_alone() -> None:
    alone = set(_constants(contract.Env)) - set(_constants(names.Env))
    assert alone == {"GENERATION", "ATTEMPT", "PROGRESS_FILE", "PULSE_FILE"}


def test_paths_agree() -> None:
    operators, trainers = _constants(names.Paths), _constants(contract.Paths)
    shared = operators.keys() & trainers.keys()
    assert shared == {"MEMBERSHIP_FILE", "RUN_CONFIG_FILE", "RUN_DIR", "CHECKPOINTS", "TERMINATION_LOG", "RAY_TOKEN"}
    assert {name: operators[name] for name in shared} == {name: trainers[name] for name in shared}
    assert operators["MEMBERSHIP_FILE"].startswith(f"{operators['CONFIG_DIR']}/")
    assert operators["RUN_CONFIG_FILE"].startswith(f"{operators['CONFIG_DIR']}/")


def test_exit_codes_agree() -> None:
    assert {code.name: code.value for code in names.ExitCode} == {code.name: code.value for code in contract.ExitCode}


@pytest.mark.parametrize("name", ["AGENT_PORT", "MASTER_PORT", "PROGRESS_MAX_BYTES"])
def test_ports_and_sizes_agree(name: str) -> None:
    assert getattr(names, name) == getattr(contract, name)


def test_the_ports_of_ray_agree() -> None:
    assert _constants(names.RayPorts) == _constants(contract.RayPorts)


def test_the_termination_log_fits_what_kubernetes_keeps_of_it() -> None:
    assert contract.TERMINATION_LOG_MAX_BYTES <= 4096


def test_phases_agree() -> None:
    (annotation,) = [field.annotation for name, field in contract.Report.model_fields.items() if name == "phase"]
    assert frozenset(annotation.__args__) == PHASES  # type: ignore[union-attr]


def test_a_users_variable_can_never_be_one_of_ours() -> None:
    ours = {*_constants(names.Env).values(), *_constants(contract.Env).values()}
    assert all(name.startswith("DEEPSEEKJOB_") for name in ours)
