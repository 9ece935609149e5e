"""Where a worker pod may run: what was asked for, joined with the gang's topology."""

from __future__ import annotations

from typing import Any

import pytest
from deepseek_operator.render.placement import placement
from support.full_job import AFFINITY, PREFERRED, REQUIRED
from support.make import UID, make_job

ZONE = "topology.kubernetes.io/zone"
NEAR = {"labelSelector": {"matchLabels": {"training.deepseekjob.dev/job-uid": UID}}, "topologyKey": ZONE}


def placed(*, topology: str | None = None, scheduling: dict[str, Any] | None = None, **workers: Any) -> dict[str, Any]:
    wanted = dict(scheduling or {})
    if topology:
        wanted["topology"] = {"key": ZONE, "mode": topology}
    return placement(make_job(workers=workers, spec={"scheduling": wanted}))


def test_nothing_is_written_that_was_not_asked_for() -> None:
    assert set(placed()) == {"tolerations"}


@pytest.mark.parametrize(
    ("field", "value"),
    [("nodeSelector", {"gpu": "h100"}), ("priorityClassName", "research"), ("runtimeClassName", "nvidia")],
)
def test_what_the_workers_ask_for(field: str, value: Any) -> None:
    assert placed(**{field: value})[field] == value


def test_the_scheduler_of_the_gang() -> None:
    assert placed(scheduling={"schedulerName": "volcano"})["schedulerName"] == "volcano"


def test_affinity_is_taken_word_for_word() -> None:
    assert placed(affinity=AFFINITY)["affinity"] == AFFINITY


def test_an_empty_selector_means_all_pods_and_stays() -> None:
    term = {"labelSelector": {}, "topologyKey": "kubernetes.io/hostname"}
    wanted = {"podAntiAffinity": {REQUIRED: [term]}}
    assert placed(affinity=wanted)["affinity"] == wanted


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("Required", {REQUIRED: [NEAR]}),
        ("Preferred", {PREFERRED: [{"weight": 100, "podAffinityTerm": NEAR}]}),
    ],
)
def test_a_topology_keeps_the_jobs_pods_together(mode: str, expected: dict[str, Any]) -> None:
    assert placed(topology=mode)["affinity"] == {"podAffinity": expected}


@pytest.mark.parametrize(("mode", "kind"), [("Required", REQUIRED), ("Preferred", PREFERRED)])
def test_a_topology_is_added_to_the_users_affinity(mode: str, kind: str) -> None:
    found = placed(topology=mode, affinity=AFFINITY)["affinity"]
    users = AFFINITY["podAffinity"][kind]
    assert found["podAffinity"][kind][:-1] == users
    other = PREFERRED if kind == REQUIRED else REQUIRED
    assert found["podAffinity"][other] == AFFINITY["podAffinity"][other]
    assert {key: found[key] for key in ("nodeAffinity", "podAntiAffinity")} == {
        key: AFFINITY[key] for key in ("nodeAffinity", "podAntiAffinity")
    }


LOST = [
    {"key": f"node.kubernetes.io/{state}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}
    for state in ("not-ready", "unreachable")
]
FOREVER = {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"}
GPU = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}


@pytest.mark.parametrize(
    ("users", "expected"),
    [
        ([], LOST),
        ([GPU], [GPU, *LOST]),
        ([FOREVER], [FOREVER, LOST[0]]),
        ([{"operator": "Exists"}], [{"operator": "Exists"}]),
    ],
)
def test_the_users_tolerations_for_lost_nodes_win(users: list[Any], expected: list[Any]) -> None:
    assert placed(tolerations=users)["tolerations"] == expected
