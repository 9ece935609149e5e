"""A job and its profile without a cluster: the same merge, the same limits, and one line for what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from deepseek_client.cli import app
from deepseek_client.errors import ManifestError
from deepseek_client.local.folders import Folders
from deepseek_client.local.world import LocalWorld
from deepseek_client.profiles import complete
from deepseek_operator.decide import decide
from support.bad_manifests import GONE, changed, script_job
from typer.testing import CliRunner

IMAGE = "example.com/pool:1"


def job(**changes: Any) -> dict[str, Any]:
    """A job that leaves its image to the profile `pool`."""
    return changed(script_job(), {"spec/workers/image": GONE, "spec/profile": "pool"} | changes)


def profile(name: str = "pool", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "training.deepseekjob.dev/v1alpha1",
        "kind": "DeepSeekProfile",
        "metadata": {"name": name},
        "spec": {"workers": {"image": IMAGE}, **spec},
    }


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def to_file(*documents: object, name: str = "job.yaml") -> Path:
        path = tmp_path / name
        path.write_text(yaml.safe_dump_all(documents))
        return path

    return to_file


def test_the_profile_may_be_a_document_of_the_jobs_file_before_it_or_after_it(write: Any) -> None:
    for documents in ([profile(), job()], [job(), profile("other"), profile()]):
        whole = complete(write(*documents))
        assert whole.job.spec.workers.image == IMAGE
        assert whole.profile is not None
        assert whole.profile.name == "pool"


def test_the_profile_may_be_in_a_file_of_its_own(write: Any) -> None:
    whole = complete(write(job()), write(profile("a"), profile(), name="profiles.yaml"))
    assert whole.job.spec.workers.image == IMAGE


def test_a_job_without_profile_has_the_documented_defaults(write: Any) -> None:
    whole = complete(write(script_job()))
    assert whole.job.spec.communication.timeout_seconds == 600
    assert whole.profile is None


def test_a_job_that_was_read_from_a_cluster_begins_anew(write: Any) -> None:
    status = {"generation": 3, "profile": {"name": "pool", "spec": {"workers": {"image": "example.com/old:1"}}}}
    whole = complete(write(job() | {"status": status}, profile()))
    assert whole.job.spec.workers.image == IMAGE
    assert whole.job.status.generation == 0


WRONG: list[tuple[str, list[Any], list[Any] | None, str]] = [
    ("not given", [job()], None, "spec.profile: pool is not here; give its file with --profile-file"),
    ("another one", [job(), profile("b"), profile("a")], None, "spec.profile: pool is only a, b here;"),
    ("none wanted", [script_job()], [profile()], "spec.profile: the job names no profile; name one of"),
    ("two jobs", [job(), job(), profile()], None, "expected one DeepSeekJob, found 2"),
    ("no job", [profile()], None, "expected one DeepSeekJob, found 0"),
    ("nothing", [], None, "expected a DeepSeekJob object, found no document"),
    ("something else beside it", [job(), {"kind": "Secret"}], None, "expected a DeepSeekJob or DeepSeekProfile object, found Secret"),
    ("a job as the profile", [job()], [job()], "expected a DeepSeekProfile object, found DeepSeekJob"),
    ("a list as the profile", [job()], [["x"]], "expected a DeepSeekProfile object, found something else"),
    ("a profile without name", [job()], [profile() | {"metadata": {}}], "metadata.name: required; give the profile a"),
    ("its version", [job()], [profile() | {"apiVersion": "v1"}], "apiVersion: must be training.deepseekjob.dev/v1"),
    ("a misspelt field", [job()], [profile(limit={})], "spec.limit: unknown field; did you mean limits?"),
    ("a wrong value", [job()], [profile(limits={"maxReplicas": 0})], "spec.limits.maxReplicas: input should be greater"),
    ("above its limits", [job(), profile(limits={"maxReplicas": 1})], None, "pool allows: workers.replicas is 2, at most 1"),
    ("no image", [job(), profile() | {"spec": {}}], None, "workers.image: neither the job nor the profile has one"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("documents", "own_file", "says"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG]
)
def test_what_is_wrong_is_one_line(write: Any, documents: list[Any], own_file: list[Any] | None, says: str) -> None:
    own = None if own_file is None else write(*own_file, name="profile.yaml")
    with pytest.raises(ManifestError) as caught:
        complete(write(*documents), own)
    (line,) = str(caught.value).splitlines()
    assert says in line


def test_the_local_world_runs_the_completed_job_and_keeps_the_profile_in_its_status(write: Any, tmp_path: Path) -> None:
    whole = complete(write(job(), profile()))
    with LocalWorld(whole.job, Folders(tmp_path / "work"), profile=whole.profile) as world:
        plan = decide(world.observe())
    images = {m["spec"]["containers"][0]["image"] for m in plan.create if m["kind"] == "Pod"}
    assert images == {IMAGE}
    assert plan.status.profile == whole.profile


@pytest.mark.parametrize(
    ("documents", "own_file", "says"),
    [
        ([job()], None, "DeepSeekJob right is valid; its profile pool was not given: --profile-file checks both"),
        ([job()], [profile()], "DeepSeekProfile pool is valid"),
        ([job(), profile()], None, "DeepSeekJob right is valid"),
        ([profile()], None, "DeepSeekProfile pool is valid"),
        ([script_job()], None, "DeepSeekJob right is valid"),
    ],
)
def test_validate_takes_jobs_and_profiles(
    write: Any, documents: list[Any], own_file: list[Any] | None, says: str
) -> None:
    more = [] if own_file is None else ["--profile-file", str(write(*own_file, name="profile.yaml"))]
    done = CliRunner().invoke(app, ["validate", str(write(*documents)), *more])
    assert done.exit_code == 0, done.output
    assert says in done.output


def test_validate_says_what_the_profile_does_not_allow(write: Any) -> None:
    done = CliRunner().invoke(app, ["validate", str(write(job(), profile(limits={"maxReplicas": 1})))])
    assert isinstance(done.exception, ManifestError)
    assert "at most 1 allowed" in str(done.exception)
