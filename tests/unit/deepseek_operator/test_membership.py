"""A membership annotation reads back; one that anybody may have written reads as nothing."""

from __future__ import annotations

import pytest
from deepseek_operator.render.membership import Announced, Membership, membership_json, read_announced


def test_what_is_written_is_read() -> None:
    wire = membership_json(Membership(3, attempt=2, node_rank=1, nodes=2, master="10.0.0.1", host=False))
    assert read_announced(wire) == Announced(3, node_rank=1)


@pytest.mark.parametrize(
    "annotation",
    [
        None,
        "",
        "{",
        "[]",
        "3",
        "null",
        "[" * 100_000,
        '{"generation": -1, "nodeRank": -1}',
        '{"generation": true, "nodeRank": false}',
        '{"generation": 2147483648}',
        '{"generation": "1", "nodeRank": "0"}',
    ],
)
def test_what_is_no_membership_says_nothing(annotation: str | None) -> None:
    assert read_announced(annotation) == Announced(0, None)
