"""The membership file: tolerant of what a volume may show, and never going back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from deepseek_trainer.agent.log import EventLog
from deepseek_trainer.agent.membership import MembershipFile


def content(generation: int = 1, **changes: object) -> str:
    fields = {"generation": generation, "attempt": 1, "nodeRank": 0, "nodes": 2, "master": "10.0.0.1", "port": 29500}
    return json.dumps(fields | changes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "membership.json"


@pytest.fixture
def file(path: Path) -> MembershipFile:
    return MembershipFile(path, EventLog())


def generation(file: MembershipFile) -> int | None:
    membership = file.read()
    return membership.generation if membership else None


@pytest.mark.parametrize(
    "text", [None, "", " \n", "{", "null", '{"generation": 1}', content(0), content(nodeRank=2), content(port=0)]
)
def test_what_is_no_membership_is_waited_out(path: Path, file: MembershipFile, text: str | None) -> None:
    if text is not None:
        path.write_text(text)
    assert generation(file) is None
    path.write_text(content(3))
    assert generation(file) == 3


def test_a_swapped_folder_of_a_volume_is_followed(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "membership.json").write_text(content(number))
    link = tmp_path / "..data"
    link.symlink_to("..1")
    (tmp_path / "membership.json").symlink_to("..data/membership.json")
    file = MembershipFile(tmp_path / "membership.json", EventLog())
    assert generation(file) == 1
    staged = tmp_path / "..staged"
    staged.symlink_to("..2")
    staged.rename(link)
    assert generation(file) == 2


@pytest.mark.parametrize("text", ["{torn", content(1), content(2, nodeRank=1)])
def test_nonsense_and_older_generations_leave_the_membership(path: Path, file: MembershipFile, text: str) -> None:
    path.write_text(content(2))
    assert generation(file) == 2
    path.write_text(text)
    membership = file.read()
    assert membership is not None
    assert (membership.generation, membership.node_rank) == (2, 0)


def test_a_removed_annotation_ends_the_membership(path: Path, file: MembershipFile) -> None:
    path.write_text(content(2))
    assert generation(file) == 2
    path.write_text("")
    assert generation(file) is None


def test_fields_of_a_newer_operator_are_ignored(path: Path, file: MembershipFile) -> None:
    path.write_text(content(4, colour="blue"))
    assert generation(file) == 4
