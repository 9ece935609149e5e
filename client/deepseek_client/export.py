"""`dsj export`: a checkpoint as a model in the format of Hugging Face, written where the volume is: here, or by a pod beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from deepseek_operator.api.names import Paths
from deepseek_operator.render.claims import own_claim

from deepseek_client.beside.answer import understood
from deepseek_client.beside.folder import given_folder
from deepseek_client.beside.pod import TARGET, Errand, whole_job
from deepseek_client.beside.run import run
from deepseek_client.errors import ClientError, NotExportedError
from deepseek_client.sdk import DeepSeekJobClient

MODULE = "deepseek_trainer.checkpoint.export"
NEEDS = "a file of 4 GiB and one layer"
Lines = Callable[[str], object]


@dataclass(frozen=True)
class Wanted:
    """What is exported.

    Attributes:
        target: a folder that isn't there yet: on this machine, or in the root of the volume.
        step: of the checkpoint; None: the newest whole one.
        dtype: float32 or bfloat16; None: as trained.
        tokenizer: tokenizer.json, on this machine or in the root of the job's volume (of the target's, if it has none); None: that of the job's data.
        ema: the moving average of the weights, in place of the weights.
    """

    target: str
    step: int | None = None
    dtype: str | None = None
    tokenizer: str | None = None
    ema: bool = False


def of_job(
    client: DeepSeekJobClient,
    name: str,
    wanted: Wanted,
    *,
    claim: str | None = None,
    timeout_s: float = 3600,
    memory: str = "8Gi",
    told: Lines | None = None,
) -> str:
    """Exports by a pod, which needs the right to create, get and delete pods in the job's namespace; one sentence about it.

    Args:
        claim: PersistentVolumeClaim that the target is on; None: the job's own.
        told: is given what the pod prints meanwhile.

    Raises:
        NotFoundError: there is no such job.
        NotExportedError: see there.
        ClientError: the job has no volume; or the pod may not be made, does not start, or gives no answer.
    """
    job = client.get(name)
    own = own_claim(whole_job(job))
    if own is None and claim is None:
        raise ClientError(
            f"job {name}: has no checkpoint volume that a model could be written to; name a claim with --claim"
        )
    errand = Errand(
        "export",
        MODULE,
        arguments(wanted, Paths.CHECKPOINTS if claim in (None, own) else TARGET, Paths.CHECKPOINTS if own else TARGET),
        memory=memory,
        needs=NEEDS,
        timeout_s=timeout_s,
        writes=claim in (None, own),
        target=claim,
        scratch=True,
    )
    said = parse(run(client, job, errand, told=told))
    return f"{said} of claim {claim or own}"


def of_folder(path: Path, wanted: Wanted, *, told: Lines) -> str:
    """Exports in this process; one sentence about it.

    Args:
        path: the job's checkpoint folder, or the work folder of `dsj run`.

    Raises:
        NotExportedError: see there.
        ClientError: the trainer isn't installed here, or this is no such folder.
    """
    try:
        from deepseek_trainer.checkpoint.export import DTYPES, export, sentence
        from deepseek_trainer.config import ConfigError
        from deepseek_trainer.errors import TrainerError
    except ModuleNotFoundError as error:
        raise ClientError(f"an export in a folder needs {error.name}: install deepseek-client[local]") from error
    target = Path(wanted.target)
    dtype = DTYPES[wanted.dtype] if wanted.dtype is not None else None
    tokenizer = Path(wanted.tokenizer) if wanted.tokenizer is not None else None
    try:
        found = export(
            given_folder(path), target, step=wanted.step, dtype=dtype, tokenizer=tokenizer, ema=wanted.ema, told=told
        )
    except (TrainerError, ConfigError, OSError) as error:
        raise NotExportedError(str(error)) from error
    return sentence(found, target)


def arguments(wanted: Wanted, root: str, own: str = Paths.CHECKPOINTS) -> tuple[str, ...]:
    """What the module in the pod is told.

    Args:
        root: where the pod sees the claim that the target is on.
        own: where it sees the one that the tokenizer is on.

    Raises:
        ClientError: a path leads out of its volume.
    """
    more = [str(_inside(root, wanted.target, "TARGET"))]
    if wanted.step is not None:
        more += ["--step", str(wanted.step)]
    if wanted.dtype is not None:
        more += ["--dtype", wanted.dtype]
    if wanted.tokenizer is not None:
        more += ["--tokenizer", str(_inside(own, wanted.tokenizer, "--tokenizer"))]
    if wanted.ema:
        more += ["--ema"]
    return tuple(more)


def parse(text: str) -> str:
    """The sentence of a pod's answer.

    Raises:
        NotExportedError: it says what is wrong.
        ClientError: it is no answer.
    """
    with understood(text, "the pod exported nothing that it tells of", NotExportedError) as said:
        return str(said["done"])[:1000]


def _inside(root: str, path: str, name: str) -> PurePosixPath:
    wanted = PurePosixPath(path)
    if wanted.is_absolute() or ".." in wanted.parts or not wanted.parts:
        raise ClientError(f"{name} {path}: write a path from the root of the volume, without .. in it: models/my-model")
    return PurePosixPath(root) / wanted
