"""The client against a scripted server: retries, typed errors, preconditions and pages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import kopf
import pytest
from aiohttp import web
from deepseek_operator.api.names import API_VERSION, KIND
from deepseek_operator.cluster.client import create_or_own
from deepseek_operator.cluster.credentials import BearerToken, LoginError, find_credentials
from deepseek_operator.cluster.errors import (
    AlreadyExists,
    ApiError,
    Conflict,
    Forbidden,
    Invalid,
    NamespaceTerminating,
    NotFound,
    NotServed,
    Unavailable,
)
from deepseek_operator.cluster.mergepatch import merge_patch
from hypothesis import given
from hypothesis import strategies as st
from support.scripted import Server, refusal


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with AsyncExitStack() as stack:
        yield Server(stack)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((404, "NotFound"), NotFound),
        ((403, "Forbidden"), Forbidden),
        ((409, "Conflict"), Conflict),
        ((409, "AlreadyExists"), AlreadyExists),
        ((422, "Invalid"), Invalid),
    ],
)
async def test_refusals_are_typed_and_not_tried_again(
    server: Server, answer: tuple[int, str], kind: type[ApiError]
) -> None:
    client = await server.client()
    server.script = [refusal(*answer)]
    with pytest.raises(kind, match="no"):
        await client.get_job("ns", "j")
    assert len(server.requests) == 1


async def test_too_many_requests_waits_as_long_as_it_is_told(server: Server) -> None:
    client = await server.client()
    server.script = [refusal(429, **{"Retry-After": "7"}), refusal(503), web.json_response({"metadata": {}})]
    assert await client.get_job("ns", "j") == {"metadata": {}}
    assert server.slept[0] == 7.0
    assert server.slept[1] < 5.0


async def test_it_gives_up_in_the_end(server: Server) -> None:
    client = await server.client()
    server.script = [lambda _: refusal(500)] * 10
    with pytest.raises(Unavailable):
        await client.get_job("ns", "j")
    assert len(server.requests) == 4


async def test_an_answer_that_is_no_json_is_an_error_with_its_text(server: Server) -> None:
    client = await server.client()
    server.script = [web.Response(status=403, text="<html>proxy says no</html>")]
    with pytest.raises(Forbidden, match="proxy says no"):
        await client.get_job("ns", "j")


@pytest.mark.parametrize(
    ("details", "kind"),
    [
        ({"causes": [{"reason": "NamespaceTerminating", "field": "metadata.namespace"}]}, NamespaceTerminating),
        ({"causes": [{"reason": "Other"}]}, Forbidden),
        ({}, Forbidden),
        (None, Forbidden),
        ("odd", Forbidden),
    ],
)
async def test_a_namespace_that_goes_away_is_told_from_a_missing_right(
    server: Server, details: object, kind: type[ApiError]
) -> None:
    client = await server.client()
    answer = {"kind": "Status", "reason": "Forbidden", "message": "no", "details": details}
    server.script = [web.json_response(answer, status=403)]
    with pytest.raises(Forbidden) as refused:
        await client.get_job("ns", "j")
    assert type(refused.value) is kind


async def test_status_carries_the_version_that_was_read(server: Server) -> None:
    client = await server.client()
    server.script = [web.json_response({"metadata": {"resourceVersion": "8"}})]
    assert await client.patch_status("ns", "j", "7", {"state": "Running"}) == "8"
    [(method, path, body)] = server.requests
    assert (method, path.split("?")[0].rsplit("/", 1)[1]) == ("PATCH", "status")
    assert body == {"metadata": {"resourceVersion": "7"}, "status": {"state": "Running"}}


async def test_lists_are_read_page_by_page(server: Server) -> None:
    client = await server.client()
    item = {"metadata": {"namespace": "ns", "name": "a", "uid": "u", "resourceVersion": "1"}}
    server.script = [
        web.json_response({"metadata": {"continue": "more"}, "items": [item]}),
        web.json_response({"metadata": {}, "items": None}),
    ]
    assert [job.name for job in await client.list_jobs(None)] == ["a"]
    assert "continue=more" in server.requests[1][1]


OWNED = {
    "apiVersion": "training.deepseekjob.dev/v1alpha1",
    "kind": "DeepSeekJob",
    "uid": "job",
    "controller": True,
}


@pytest.mark.parametrize(("owners", "fine"), [([OWNED], True), ([{**OWNED, "uid": "old"}], False), ([], False)])
async def test_what_exists_is_a_success_only_when_it_is_ours(server: Server, owners: list[Any], fine: bool) -> None:
    client = await server.client()
    server.script = [
        refusal(409, "AlreadyExists"),
        web.json_response({"metadata": {"ownerReferences": owners}}),
    ]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "ns", "name": "p"}}
    if fine:
        await create_or_own(client, pod, "job")
    else:
        with pytest.raises(AlreadyExists, match="Pod p exists and belongs to"):
            await create_or_own(client, pod, "job")


GROUP = {"apiVersion": "scheduling.x-k8s.io/v1alpha1", "kind": "PodGroup", "metadata": {"namespace": "ns", "name": "g"}}


@pytest.mark.parametrize(
    ("message", "kind"),
    [("404 page not found", NotServed), ('namespaces "ns" not found', NotFound)],
)
async def test_a_kind_that_is_not_served_is_no_missing_object(
    server: Server, message: str, kind: type[ApiError]
) -> None:
    client = await server.client()
    server.script = [refusal(404, "NotFound", message)]
    with pytest.raises(kind) as caught:
        await client.create(GROUP)
    assert type(caught.value) is kind
    assert server.requests[0][1].startswith("/apis/scheduling.x-k8s.io/v1alpha1/namespaces/ns/podgroups?")


async def test_a_group_that_is_ours_is_put_right(server: Server) -> None:
    client = await server.client()
    ours = {"apiVersion": API_VERSION, "kind": KIND, "uid": "job", "controller": True}
    server.script = [
        refusal(409, "AlreadyExists"),
        web.json_response({"metadata": {"ownerReferences": [ours]}}),
        web.json_response({}),
    ]
    await create_or_own(client, GROUP, "job")
    assert server.requests[-1][0] == "PATCH"


def test_token_is_read_again(tmp_path: Any) -> None:
    now = 0.0
    path = tmp_path / "token"
    path.write_text("one")
    token = BearerToken(kopf.ConnectionInfo(server="https://x", token="one"), path, 60.0, lambda: now)
    path.write_text("two\n")
    assert token.headers() == {"Authorization": "Bearer one"}
    now = 61.0
    assert token.headers() == {"Authorization": "Bearer two"}


def test_without_credentials_the_message_says_what_to_do(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    with pytest.raises(LoginError, match="KUBECONFIG"):
        find_credentials()


JSON = st.recursive(
    st.booleans() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.text(max_size=2), inner, max_size=3),
)
OBJECT = st.dictionaries(st.text(max_size=2), JSON, max_size=4)


def apply_patch(target: Any, patch: Any) -> Any:
    """RFC 7396, word for word."""
    if not isinstance(patch, dict):
        return patch
    target = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = apply_patch(target.get(key), value)
    return target


@given(OBJECT, OBJECT)
def test_merge_patch_makes_one_of_the_other(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert apply_patch(old, merge_patch(old, new)) == new
    assert merge_patch(new, new) == {}
