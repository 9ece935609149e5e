"""A job and its profile become one spec: the merge table row by row, and laws that hold for all of them."""

from __future__ import annotations

from typing import Any

import pytest
from deepseek_operator.api.profile import LifecycleDefaults, ProfileSpec, WorkerDefaults
from deepseek_operator.api.resolve import DEFAULTS, JOB_FIRST, TABLE, Misfit, resolve
from deepseek_operator.api.v1alpha1 import Communication, Lifecycle, Model, Scheduling, Spec, Workers
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic.alias_generators import to_camel

SECTIONS: dict[str, type[Model]] = {
    "workers": Workers,
    "communication": Communication,
    "scheduling": Scheduling,
    "lifecycle": Lifecycle,
}
IMAGE = "example.com/trainer:1"


def make_spec(workers: dict[str, Any] | None = None, **fields: Any) -> Spec:
    wire = {"profile": "pool", "workers": workers or {}, "entrypoint": {"script": "/train.py"}, **fields}
    return Spec.model_validate(wire)


def make_profile(workers: dict[str, Any] | None = None, **fields: Any) -> ProfileSpec:
    return ProfileSpec.model_validate({"workers": {"image": IMAGE} | (workers or {}), **fields})


def merged(section: str, field: str, job: Any, profile: Any) -> Any:
    """A field of the resolved spec as it is on the wire; None: not given."""
    ours = {} if job is None else {field: job}
    theirs = {} if profile is None else {field: profile}
    if section == "workers":
        found = resolve(make_spec(ours), make_profile(theirs))
    else:
        found = resolve(make_spec(**{section: ours}), make_profile(**{section: theirs}))
    return found.model_dump(by_alias=True, exclude_none=True, mode="json")[section].get(field)


SCALARS: list[tuple[str, str, Any, Any, Any]] = [
    ("workers", "procPerNode", "4", "8", "auto"),
    ("workers", "image", "example.com/mine:2", IMAGE, IMAGE),
    ("workers", "imagePullPolicy", "Always", "Never", "IfNotPresent"),
    ("workers", "priorityClassName", "mine", "theirs", None),
    ("workers", "runtimeClassName", "kata", "nvidia", None),
    ("workers", "sharedMemory", "1Gi", "8Gi", None),
    ("communication", "interface", "eth0", "ib0", None),
    ("communication", "infiniband", False, True, True),
    ("communication", "ibHca", "mlx5_0", "mlx5_1", None),
    ("communication", "ibGidIndex", 1, 3, None),
    ("communication", "ibTimeout", 20, 22, None),
    ("communication", "debug", "TRACE", "INFO", "WARN"),
    ("communication", "timeoutSeconds", 60, 1200, 600),
    ("scheduling", "gang", "Volcano", "Coscheduling", "None"),
    ("scheduling", "queue", "mine", "theirs", None),
    ("scheduling", "priorityClassName", "mine", "theirs", None),
    ("scheduling", "schedulerName", "mine", "theirs", None),
    ("scheduling", "spares", 0, 2, 0),
    ("lifecycle", "activeDeadlineSeconds", 60, 3600, None),
    ("lifecycle", "startDeadlineSeconds", 60, 600, None),
    ("lifecycle", "ttlSecondsAfterFinished", 0, 86400, None),
    ("lifecycle", "cleanPodPolicy", "Running", "All", "Running"),
]
"""Section, field, the job's value, the profile's, and what stands where neither is given (the image is required)."""


@pytest.mark.parametrize(("section", "field", "job", "profile", "default"), SCALARS, ids=str)
def test_a_scalar_is_the_jobs_else_the_profiles_else_the_default(
    section: str, field: str, job: Any, profile: Any, default: Any
) -> None:
    assert merged(section, field, job, profile) == job
    assert merged(section, field, job, None) == job
    assert merged(section, field, None, profile) == profile
    assert merged(section, field, None, None) == default


GPU = "nvidia.com/gpu"
A, B, C = ({"name": name, "value": name.lower()} for name in "ABC")
OTHER_A = {"name": "A", "value": "the job's"}
SECRET_A = {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
TAINT = {"key": "gpu", "operator": "Exists"}
SPOT = {"key": "spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
ZONE = {"key": "topology.kubernetes.io/zone", "mode": "Required"}
RACK = {"key": "example.com/rack", "mode": "Preferred"}
WISH = {"weight": 1, "preference": {"matchExpressions": [{"key": "rack", "operator": "Exists", "values": []}]}}
NOBODY = {
    "labelSelector": {"matchLabels": {"app": "a"}, "matchExpressions": []},
    "topologyKey": "zone",
    "namespaces": [],
}
NEAR: dict[str, Any] = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [WISH]}}
FAR: dict[str, Any] = {
    "podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [NOBODY],
        "preferredDuringSchedulingIgnoredDuringExecution": [],
    }
}

PARTS: list[tuple[str, str, str, Any, Any, Any]] = [
    ("nothing of both", "workers", "env", None, None, []),
    ("env of the profile", "workers", "env", None, [A, B], [A, B]),
    ("env of the job", "workers", "env", [A, B], None, [A, B]),
    ("env, the job wins by name", "workers", "env", [OTHER_A, C], [A, B], [B, OTHER_A, C]),
    ("env, a reference wins over a value", "workers", "env", [SECRET_A], [A], [SECRET_A]),
    ("labels, the job's key wins", "workers", "labels", {"a": "job", "b": "1"}, {"a": "p", "c": "2"}, {"a": "job", "b": "1", "c": "2"}),
    ("annotations, the job's key wins", "workers", "annotations", {"a": "job"}, {"a": "p", "c": "2"}, {"a": "job", "c": "2"}),
    ("node pool, the profile's key wins", "workers", "nodeSelector", {"pool": "cheap", "disk": "ssd"}, {"pool": "h100"}, {"pool": "h100", "disk": "ssd"}),
    ("tolerations, the job's first", "workers", "tolerations", [SPOT], [TAINT], [SPOT, TAINT]),
    ("tolerations, each once", "workers", "tolerations", [TAINT, SPOT], [SPOT, TAINT], [TAINT, SPOT]),
    ("tolerations, a profile that repeats itself", "workers", "tolerations", [], [TAINT, SPOT, TAINT], [TAINT, SPOT]),
    ("pull secrets, each once", "workers", "imagePullSecrets", [{"name": "a"}], [{"name": "b"}, {"name": "a"}], [{"name": "a"}, {"name": "b"}]),
    ("amounts of the profile", "workers", "resources", {}, {"requests": {"cpu": "4"}, "limits": {GPU: "8"}}, {"requests": {"cpu": "4"}, "limits": {GPU: "8"}}),
    ("an amount of the job's", "workers", "resources", {"requests": {"cpu": "2"}}, {"requests": {"cpu": "4", "memory": "8Gi"}}, {"requests": {"cpu": "2", "memory": "8Gi"}, "limits": {}}),
    ("a limit beside the profile's request", "workers", "resources", {"limits": {"memory": "16Gi"}}, {"requests": {"memory": "8Gi"}}, {"requests": {"memory": "8Gi"}, "limits": {"memory": "16Gi"}}),
    ("fewer GPUs than the profile's", "workers", "resources", {"limits": {GPU: "2"}}, {"requests": {GPU: "8"}, "limits": {GPU: "8", "memory": "1Ti"}}, {"requests": {}, "limits": {GPU: "2", "memory": "1Ti"}}),
    ("no GPU at all", "workers", "resources", {"limits": {GPU: "0"}}, {"limits": {GPU: "8"}}, {"requests": {}, "limits": {GPU: "0"}}),
    ("affinity is one thing", "workers", "affinity", NEAR, FAR, NEAR),
    ("affinity of the profile", "workers", "affinity", None, FAR, FAR),
    ("topology is one thing", "scheduling", "topology", ZONE, RACK, ZONE),
    ("topology of the profile", "scheduling", "topology", None, RACK, RACK),
    ("success policy is the job's alone", "lifecycle", "successPolicy", "RankZero", None, "RankZero"),
    ("replicas are the job's alone", "workers", "replicas", 3, None, 3),
]  # fmt: skip


@pytest.mark.parametrize(
    ("section", "field", "job", "profile", "want"), [c[1:] for c in PARTS], ids=[c[0] for c in PARTS]
)
def test_parts_of_both_become_one(section: str, field: str, job: Any, profile: Any, want: Any) -> None:
    assert merged(section, field, job, profile) == want


def test_every_field_of_a_profile_has_a_row_and_every_row_a_field() -> None:
    models: dict[str, type[Model]] = {
        "workers": WorkerDefaults,
        "communication": Communication,
        "scheduling": Scheduling,
    }
    assert set(ProfileSpec.model_fields) - {"limits"} == set(TABLE)
    for section, model in (models | {"lifecycle": LifecycleDefaults}).items():
        assert set(TABLE[section]) == set(model.model_fields)
        assert set(TABLE[section]) <= set(SECTIONS[section].model_fields)


def test_what_a_description_calls_the_default_is_the_default() -> None:
    """Where it says "Default: the profile's, else X", X is filled in, or it is not ours to fill in."""
    others = {"none", "never", "all", "found", "NCCL's", "the cluster's", "the node's"}
    for section, model in SECTIONS.items():
        for name, field in model.model_fields.items():
            _, found, words = (field.description or "").partition("Default: the profile's, else ")
            if found and name in DEFAULTS[section]:
                assert words == f"{str(DEFAULTS[section][name]).replace('True', 'true')}.", f"{section}.{name}"
            elif found:
                assert words.removesuffix(".") in others or words.startswith(("the ", "workers.")), f"{section}.{name}"
            else:
                assert name not in DEFAULTS[section], f"{section}.{name}"


MISFITS: list[tuple[str, Spec, ProfileSpec, str]] = [
    ("no image", make_spec(), ProfileSpec(), "workers.image: neither the job nor the profile has one"),
    (
        "a request above the profile's limit",
        make_spec({"resources": {"requests": {"memory": "8Gi"}}}),
        make_profile({"resources": {"limits": {"memory": "4Gi"}}}),
        "workers.resources: a request is larger than its limit",
    ),
    (
        "a queue without a gang that has one",
        make_spec(scheduling={"queue": "mine"}),
        make_profile(scheduling={"gang": "None"}),
        "scheduling: queue is Kueue's or Volcano's",
    ),
    (
        "more variables than a container may have",
        make_spec({"env": [{"name": f"A{n}", "value": ""} for n in range(150)]}),
        make_profile({"env": [{"name": f"B{n}", "value": ""} for n in range(150)]}),
        "workers.env: List should have at most 200 items",
    ),
]


@pytest.mark.parametrize(("spec", "profile", "says"), [case[1:] for case in MISFITS], ids=[case[0] for case in MISFITS])
def test_what_does_not_go_together_is_named(spec: Spec, profile: ProfileSpec, says: str) -> None:
    with pytest.raises(Misfit, match=says.replace("(", r"\(")):
        resolve(spec, profile)


def test_all_that_does_not_go_together_is_named_at_once() -> None:
    spec = make_spec({"resources": {"requests": {"memory": "8Gi"}}}, scheduling={"queue": "mine"})
    profile = ProfileSpec.model_validate(
        {"workers": {"resources": {"limits": {"memory": "4Gi"}}}, "scheduling": {"gang": "None"}}
    )
    with pytest.raises(Misfit) as error:
        resolve(spec, profile)
    for part in ("workers.resources", "workers.image", "scheduling"):
        assert part in str(error.value)


# ---- laws ---------------------------------------------------------------------------------------------------------

_NAMES = st.sampled_from(["A", "B", "C", "D"])
_TEXT = st.sampled_from(["x", "y", "z"])
_MAPS = st.dictionaries(st.sampled_from(["k", "l", "m"]), _TEXT)
_ENV = st.dictionaries(_NAMES, _TEXT).map(lambda found: [{"name": k, "value": v} for k, v in found.items()])
_VALUES: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "workers": {
        "image": st.just("example.com/a:1"),
        "env": _ENV,
        "labels": _MAPS,
        "annotations": _MAPS,
        "nodeSelector": _MAPS,
        "tolerations": st.lists(st.sampled_from([TAINT, SPOT, {"operator": "Exists"}]), max_size=3),
        "imagePullSecrets": st.lists(st.sampled_from([{"name": "a"}, {"name": "b"}]), max_size=3),
        "resources": st.dictionaries(
            st.just("limits"), st.dictionaries(st.sampled_from(["cpu", "memory", GPU]), st.sampled_from(["1", "2"]))
        ),
    },
    "communication": {},
    "scheduling": {},
    "lifecycle": {},
}
for _section, _field, _job, _profile, _ in SCALARS:
    _VALUES[_section].setdefault(_field, st.sampled_from([_job, _profile]))
_VALUES["scheduling"].pop("queue")  # it needs a gang that has queues: see MISFITS


def _sections() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({name: st.fixed_dictionaries({}, optional=fields) for name, fields in _VALUES.items()})


_SPECS = _sections().map(lambda found: make_spec(found.pop("workers"), **found))
_PROFILES = _sections().map(lambda found: make_profile(found.pop("workers"), **found))


@settings(max_examples=60)
@given(_SPECS, _PROFILES)
def test_the_jobs_scalars_always_win(spec: Spec, profile: ProfileSpec) -> None:
    found = resolve(spec, profile)
    for section, rows in TABLE.items():
        for field in [name for name, merge in rows.items() if merge is JOB_FIRST]:
            own = getattr(getattr(spec, section), field)
            assert own is None or getattr(getattr(found, section), field) == own


@settings(max_examples=60)
@given(_SPECS, _PROFILES)
def test_resolving_again_changes_nothing(spec: Spec, profile: ProfileSpec) -> None:
    once = resolve(spec, profile)
    assert resolve(once, profile) == once
    assert resolve(once, None) == once


@settings(max_examples=60)
@given(_SPECS)
def test_without_a_profile_nothing_that_was_set_changes(spec: Spec) -> None:
    before, after = (one.model_dump(exclude_none=True) for one in (spec, resolve(spec, None)))
    for name, value in before.items():
        if name in TABLE:
            assert {key: after[name][key] for key in value} == value
        else:
            assert after[name] == value
    assert resolve(spec, ProfileSpec()) == resolve(spec, None) if spec.workers.image else True


@settings(max_examples=60)
@given(_SPECS, _PROFILES)
def test_every_default_is_filled_in(spec: Spec, profile: ProfileSpec) -> None:
    for found in (resolve(spec, None), resolve(spec, profile)):
        for section, defaults in DEFAULTS.items():
            assert all(getattr(getattr(found, section), field) is not None for field in defaults)


@settings(max_examples=60)
@given(_SPECS, _PROFILES, st.randoms())
def test_the_order_of_keys_and_of_variables_decides_nothing(spec: Spec, profile: ProfileSpec, random: Any) -> None:
    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            items = list(value.items())
            random.shuffle(items)
            return {key: shuffled(inner) for key, inner in items}
        return value

    def wire(one: Spec | ProfileSpec) -> dict[str, Any]:
        found = shuffled(one.model_dump(by_alias=True, exclude_none=True))
        random.shuffle(found["workers"]["env"])
        return dict(found)

    def meaning(one: Spec) -> tuple[Any, Any]:
        named = {entry.name: entry for entry in one.workers.env}
        rest = one.workers.model_copy(update={"env": []})
        return named, one.model_copy(update={"workers": rest})

    other = resolve(Spec.model_validate(wire(spec)), ProfileSpec.model_validate(wire(profile)))
    assert meaning(other) == meaning(resolve(spec, profile))


def test_the_names_on_the_wire_are_those_of_the_table() -> None:
    known = {(section, field) for section, field, *_ in SCALARS} | {(case[1], case[2]) for case in PARTS}
    rows = {(section, to_camel(field)) for section, fields in TABLE.items() for field in fields}
    assert rows <= known, "a row of the table without a case"
