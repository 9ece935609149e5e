"""The cause table, case by case: each piece of evidence that workers leave, and what it is laid to.

The words are those that torch, NCCL, gloo, CUDA, the driver and Python print.
"""

from __future__ import annotations

import signal
from typing import Any

import pytest
from deepseek_operator.api.names import Cause
from deepseek_operator.decide.causes import (
    NODE_DISRUPTIONS,
    TABLE,
    Evidence,
    evidence_of,
    one_word,
    reason_of,
    row_of,
    signal_of,
)
from deepseek_operator.decide.markers import ACCELERATOR, COMMUNICATION, OUT_OF_MEMORY, USER_MISTAKES
from deepseek_operator.decide.types import Pod
from hypothesis import given, settings
from hypothesis import strategies as st
from support.make import make_last_words, make_pod

GENERATION = 3
APP, OOM, GPU, NET = Cause.APPLICATION, Cause.OUT_OF_MEMORY, Cause.ACCELERATOR, Cause.COMMUNICATION
INFRA, PREEMPTED, AFTERMATH = Cause.INFRASTRUCTURE, Cause.PREEMPTED, Cause.AFTERMATH


def failed(exit_code: int | None, **fields: Any) -> Pod:
    return make_pod(**({"phase": "Failed", "exit_code": exit_code, "reason": "Error"} | fields))


def judged(pod: Pod, *, gpus: bool = True) -> tuple[Cause, str]:
    evidence = evidence_of(pod, generation=GENERATION, gpus=gpus)
    row = row_of(evidence)
    return row.cause, reason_of(evidence, row)


def saying(message: str, exit_code: int = 1, generation: int = GENERATION, **failure: Any) -> Pod:
    """A pod whose agent wrote these words of the first failed process."""
    wire = {"rank": 1, "exitCode": 1, "message": message} | failure
    return failed(exit_code, message=make_last_words(generation, message="x", failure=wire))


# -- exit statuses, on CPUs and on GPUs, with and without last words ----------------------------------------------

EXITS: list[tuple[int | None, Cause, str]] = [
    (1, APP, "UserError"),
    (2, APP, "ExitStatus2"),
    (3, APP, "ExitStatus3"),
    (64, APP, "ExitStatus64"),
    (65, Cause.DATA, "DataError"),
    (66, APP, "ExitStatus66"),
    (69, NET, "Unavailable"),
    (70, APP, "ExitStatus70"),
    (71, NET, "PreflightFailed"),
    (75, PREEMPTED, "Preempted"),
    (78, Cause.CONFIG, "ConfigError"),
    (126, APP, "ExitStatus126"),
    (127, APP, "ExitStatus127"),
    (128, APP, "ExitStatus128"),
    (129, INFRA, "SIGHUP"),
    (130, INFRA, "SIGINT"),
    (132, APP, "SIGILL"),
    (135, APP, "SIGBUS"),
    (136, APP, "SIGFPE"),
    (137, INFRA, "SIGKILL"),
    (143, INFRA, "SIGTERM"),
    (193, APP, "ExitStatus193"),
    (255, APP, "ExitStatus255"),
    (-9, INFRA, "SIGKILL"),
    (-15, INFRA, "SIGTERM"),
    (-64, APP, "SIGRTMAX"),
    (None, INFRA, "Error"),
]


@pytest.mark.parametrize("gpus", [False, True], ids=["cpu", "gpu"])
@pytest.mark.parametrize("words", ["", make_last_words(GENERATION, message="ValueError: bad")], ids=["mute", "words"])
@pytest.mark.parametrize(("exit_code", "cause", "reason"), EXITS)
def test_exit_status(exit_code: int | None, cause: Cause, reason: str, words: str, gpus: bool) -> None:
    assert judged(failed(exit_code, message=words), gpus=gpus) == (cause, reason)


@pytest.mark.parametrize("exit_code", [134, 139, -6, -11])
@pytest.mark.parametrize(("gpus", "cause"), [(True, GPU), (False, APP)], ids=["gpu", "cpu"])
def test_crash_is_the_drivers_only_where_there_is_one(exit_code: int, gpus: bool, cause: Cause) -> None:
    name = "SIGABRT" if exit_code in (134, -6) else "SIGSEGV"
    assert judged(failed(exit_code), gpus=gpus) == (cause, name)


# -- what the cluster says comes before the worker's own words, and after a verdict that no retry can change ------

CLUSTER_EXITS: list[tuple[int | None, Cause]] = [
    (code, cause if cause in (Cause.DATA, Cause.CONFIG) else INFRA) for code, cause, _ in EXITS
]


@pytest.mark.parametrize(("exit_code", "cause"), CLUSTER_EXITS)
@pytest.mark.parametrize("taken", [{"terminating": True}, {"disrupted": True}], ids=["deleted", "disrupted"])
def test_taken_by_the_cluster(exit_code: int | None, cause: Cause, taken: dict[str, bool]) -> None:
    assert judged(failed(exit_code, message="CUDA out of memory", **taken))[0] == cause


@pytest.mark.parametrize("word", sorted(NODE_DISRUPTIONS))
@pytest.mark.parametrize("exit_code", [None, 1, 137, 255])
def test_kubernetes_word_for_a_pod_that_the_node_ended(word: str, exit_code: int | None) -> None:
    assert judged(failed(exit_code, reason=word)) == (INFRA, word)


@pytest.mark.parametrize("exit_code", [1, 137, 139])
@pytest.mark.parametrize("words", ["", "RuntimeError: NCCL error in: x"])
def test_oomkilled_counts_more_than_words(exit_code: int, words: str) -> None:
    assert judged(failed(exit_code, reason="OOMKilled", message=words)) == (OOM, "OOMKilled")


@pytest.mark.parametrize("word", ["StartError", "ContainerCannotRun"])
def test_other_words_of_kubernetes_are_kept_as_the_reason(word: str) -> None:
    assert judged(failed(128, reason=word)) == (APP, word)


# -- helpers' exit statuses are not those of the contract ---------------------------------------------------------


@pytest.mark.parametrize("exit_code", [1, 2, 65, 69, 71, 75, 78, 137, 139])
def test_helper_container(exit_code: int) -> None:
    assert judged(failed(exit_code, container="fetch"))[0] == APP
    assert judged(failed(exit_code, container="fetch", reason="OOMKilled")) == (OOM, "OOMKilled")
    assert judged(failed(exit_code, container="fetch", disrupted=True))[0] == INFRA


# -- words --------------------------------------------------------------------------------------------------------

WORDS: list[tuple[Cause, str]] = [
    (
        OOM,
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB",
    ),
    (OOM, "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB"),
    (OOM, "RuntimeError: CUDA out of memory. Tried to allocate 368.00 MiB"),
    (OOM, "RuntimeError: CUDA error: out of memory"),
    (OOM, "torch.OutOfMemoryError: HIP out of memory. Tried to allocate 1.00 GiB"),
    (OOM, "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 2 'out of memory'"),
    (OOM, "NCCL error in: NCCLUtils.cpp:93\nCuda failure 'out of memory'"),
    (OOM, "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    (
        OOM,
        "RuntimeError: [enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you",
    ),
    (OOM, "DefaultCPUAllocator: not enough memory: you tried to allocate 80000000000 bytes."),
    (OOM, "OSError: [Errno 12] Cannot allocate memory"),
    (OOM, "MemoryError"),
    (OOM, "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 7.45 GiB"),
    (OOM, "terminate called after throwing an instance of 'std::bad_alloc'"),
    (GPU, "torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered"),
    (GPU, "NVRM: Xid (PCI:0000:01:00): 79, pid=4242, GPU has fallen off the bus."),
    (GPU, "NVRM: Xid (PCI:0000:83:00): 119, Timeout waiting for RPC from GSP!"),
    (GPU, "CUDA error: an illegal memory access was encountered"),
    (GPU, "CUDA error: unspecified launch failure"),
    (GPU, "CUDA error: misaligned address"),
    (GPU, "CUDA error: an illegal instruction was encountered"),
    (GPU, "CUDA error: unknown error"),
    (GPU, "RuntimeError: CUDA unknown error - this may be due to an incorrectly set up environment"),
    (GPU, "RuntimeError: No CUDA-capable device is detected"),
    (GPU, "CUDA error: CUDA-capable device(s) is/are busy or unavailable"),
    (GPU, "CUDA error: uncorrectable NVLink error detected during the execution"),
    (GPU, "CUDA error: the launch timed out and was terminated"),
    (GPU, "CUDA error: system not yet initialized"),
    (GPU, "RuntimeError: CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
    (GPU, "RuntimeError: cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    (GPU, "NCCL watchdog thread terminated with exception: CUDA error: uncorrectable ECC error encountered"),
    (GPU, "NCCL error in: ProcessGroupNCCL.cpp:1331\nCuda failure 'an illegal memory access was encountered'"),
    (NET, "torch.distributed.DistBackendError: NCCL error in: ../ProcessGroupNCCL.cpp:1331, unhandled cuda error"),
    (NET, "torch.distributed.DistBackendError: NCCL error in: ../ProcessGroupNCCL.cpp:1333, unhandled system error"),
    (NET, "ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error."),
    (NET, "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely."),
    (NET, "ncclInternalError: Internal check failed."),
    (NET, "remote process exited or there was a network error, NCCL version 2.21.5"),
    (NET, "socketProgressOpt: Call to recv from 172.16.0.3<33759> failed : Connection reset by peer"),
    (NET, "[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=1, OpType=BROADCAST)"),
    (NET, "Some NCCL operations have failed or timed out."),
    (NET, "RuntimeError: NCCL communicator was aborted on rank 1."),
    (
        NET,
        "RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:10895",
    ),
    (NET, "[/gloo/gloo/transport/tcp/pair.cc:589] Read error [10.0.0.9]:25266: Connection reset by peer"),
    (
        NET,
        "[unbound_buffer.cc:81] Timed out waiting 1800000ms for recv operation: gloo/transport/tcp/unbound_buffer.cc",
    ),
    (NET, "RuntimeError: Gloo connectFullMesh failed with [pair.cc:144] no error"),
    (NET, "Application timeout caused pair closure"),
    (NET, "RuntimeError: Rank 1 successfully reached monitoredBarrier, but received errors while waiting for 2"),
    (
        NET,
        "torch.distributed.DistNetworkError: The client socket has timed out after 60000ms while trying to connect to",
    ),
    (NET, "The client socket has failed to connect to any network address of (demo-worker-0-0, 29500)."),
    (NET, "torch.distributed.DistStoreError: Socket Timeout"),
    (NET, "torch.distributed.DistStoreError: wait timeout after 300000ms, keys: /default_pg/0//cuda"),
    (NET, "DistNetworkError: Failed to recv, got 0 bytes. Connection was likely closed."),
    (NET, "recvVector failed on SocketImpl(fd=12): Connection reset"),
    (NET, "Timed out after 61 seconds waiting for clients. 1/2 clients joined."),
    (NET, "torch.distributed.elastic.rendezvous.api.RendezvousTimeoutError: waited 600 s for node rank 1"),
    (NET, "ConnectionRefusedError: [Errno 111] Connection refused"),
    (NET, "BrokenPipeError: [Errno 32] Broken pipe"),
    (NET, "OSError: [Errno 113] No route to host"),
    (APP, "torch.AcceleratorError: CUDA error: device-side assert triggered"),
    (APP, "NCCL watchdog thread terminated with exception: CUDA error: device-side assert triggered"),
    (APP, "torch.AcceleratorError: CUDA error: invalid device ordinal"),
    (APP, "CUDA error: no kernel image is available for execution on the device"),
    (APP, "DistBackendError: NCCL error in: x, invalid usage\nncclInvalidUsage: Duplicate GPU detected"),
    (APP, "ncclInvalidArgument: Invalid value for an argument."),
    (APP, "ValueError: shapes (3, 4) and (5, 6) not aligned"),
    (APP, "ModuleNotFoundError: No module named 'app'"),
    (APP, "RuntimeError: expected scalar type Half but found Float"),
    (APP, "KeyError: 'cuda'"),
    (APP, "AssertionError: loss is nan"),
    (APP, "the loss is nan after step 40; lower trainer.optimizer.learningRate"),
    (APP, ""),
]
NAMES = {APP: "UserError", OOM: "OutOfMemory", GPU: "AcceleratorError", NET: "CommunicationError"}


@pytest.mark.parametrize(("cause", "words"), WORDS, ids=[f"{cause}: {words[:40]}" for cause, words in WORDS])
def test_words_in_the_agents_report(cause: Cause, words: str) -> None:
    found, reason = judged(saying(words))
    assert found == cause
    if cause != APP:
        assert reason == NAMES[cause]


@pytest.mark.parametrize(("cause", "words"), WORDS, ids=[f"{cause}: {words[:40]}" for cause, words in WORDS])
def test_words_at_the_end_of_the_containers_output(cause: Cause, words: str) -> None:
    """What the kubelet keeps where nobody wrote a termination message."""
    assert (
        judged(failed(1, message=f"[rank1]: Traceback (most recent call last):\n[rank1]:   …\n[rank1]: {words}\n"))[0]
        == cause
    )


@pytest.mark.parametrize(("cause", "words"), WORDS, ids=[f"{cause}: {words[:40]}" for cause, words in WORDS])
def test_words_of_an_older_generation_are_an_aftermath(cause: Cause, words: str) -> None:
    assert judged(saying(words, generation=GENERATION - 1))[0] == AFTERMATH


@pytest.mark.parametrize(("cause", "words"), WORDS, ids=[f"{cause}: {words[:40]}" for cause, words in WORDS])
def test_an_abort_with_words_is_what_the_words_say(cause: Cause, words: str) -> None:
    """NCCL's watchdog ends the process by SIGABRT, whatever the trouble was."""
    expected = GPU if cause == APP and not any(marker in words.lower() for marker in USER_MISTAKES) else cause
    assert judged(saying(words, exitCode=None, signal="SIGABRT"))[0] == expected


@pytest.mark.parametrize("marker", [*OUT_OF_MEMORY, *ACCELERATOR, *COMMUNICATION, *USER_MISTAKES])
def test_each_marker_is_lower_case_and_reached(marker: str) -> None:
    """A marker in capitals never matches, and one that an earlier row takes away is dead."""
    assert marker == marker.lower()
    rows = [(USER_MISTAKES, APP), (OUT_OF_MEMORY, OOM), (ACCELERATOR, GPU), (COMMUNICATION, NET)]
    expected = next(cause for markers, cause in rows if marker in markers)
    assert judged(saying(marker.upper()))[0] == expected


# -- signals of training processes, as the agent reports them -----------------------------------------------------

SIGNALS: list[tuple[dict[str, Any], Cause, Cause, str]] = [
    ({"exitCode": None, "signal": "SIGKILL"}, OOM, OOM, "SIGKILL"),
    ({"exitCode": -9}, OOM, OOM, "SIGKILL"),
    ({"exitCode": 137}, OOM, OOM, "SIGKILL"),
    ({"exitCode": None, "signal": "SIGSEGV"}, APP, GPU, "SIGSEGV"),
    ({"exitCode": -11}, APP, GPU, "SIGSEGV"),
    ({"exitCode": None, "signal": "SIGABRT"}, APP, GPU, "SIGABRT"),
    ({"exitCode": None, "signal": "SIGBUS"}, APP, APP, "SIGBUS"),
    ({"exitCode": None, "signal": "SIGILL"}, APP, APP, "SIGILL"),
    ({"exitCode": None, "signal": "SIGFPE"}, APP, APP, "SIGFPE"),
    ({"exitCode": None, "signal": "SIGTERM"}, APP, APP, "SIGTERM"),
    ({"exitCode": None, "signal": "SIGNOTHING"}, APP, APP, "UserError"),
    ({"exitCode": None, "signal": "rm -rf /"}, APP, APP, "UserError"),
    ({"exitCode": None, "signal": 9}, APP, APP, "UserError"),
    ({"exitCode": 1}, APP, APP, "UserError"),
]


@pytest.mark.parametrize(("failure", "on_cpu", "on_gpu", "reason"), SIGNALS)
def test_signal_of_a_training_process(failure: dict[str, Any], on_cpu: Cause, on_gpu: Cause, reason: str) -> None:
    assert judged(saying("", **failure), gpus=False) == (on_cpu, reason)
    assert judged(saying("", **failure), gpus=True) == (on_gpu, reason)


@pytest.mark.parametrize(
    ("exit_code", "number"),
    [(None, None), (0, None), (1, None), (128, None), (129, 1), (137, 9), (192, 64), (193, None), (-9, 9), (-65, None)],
)
def test_signal_in_an_exit_status(exit_code: int | None, number: int | None) -> None:
    assert signal_of(exit_code) == number


@pytest.mark.parametrize("number", range(1, 32))
def test_every_signal_has_a_word(number: int) -> None:
    assert judged(failed(128 + number))[1] == signal.Signals(number).name


@pytest.mark.parametrize(
    ("text", "word"), [("Evicted", "Evicted"), ("Out Of: cpu", "OutOfcpu"), ("", "X"), ("9lives", "X"), ("é", "X")]
)
def test_one_word(text: str, word: str) -> None:
    assert one_word(text, "X") == word


def test_a_hang_without_another_restart_in_place_is_a_hang_whatever_its_words() -> None:
    assert judged(saying("no step for 61 s: NCCL error in: x", kind="hang", exitCode=None)) == (Cause.HANG, "NoStep")


# -- the table itself ---------------------------------------------------------------------------------------------


def test_every_row_can_be_reached() -> None:
    """By one of the cases above, so that no row is shadowed by the ones before it."""
    evidence = [
        evidence_of(pod, generation=GENERATION, gpus=gpus)
        for gpus in (False, True)
        for pod in [
            *[failed(code) for code, _, _ in EXITS],
            *[saying(words) for _, words in WORDS],
            *[saying("", **failure) for failure, _, _, _ in SIGNALS],
            saying("", generation=1),
            saying("no step for 61 s", kind="hang", exitCode=None),
            failed(1, reason="OOMKilled"),
            failed(1, disrupted=True),
            failed(1, container="fetch"),
        ]
    ]
    reached = {row_of(one).evidence for one in evidence}
    assert reached == {row.evidence for row in TABLE}


@settings(max_examples=200)
@given(
    st.builds(
        Evidence,
        exit_code=st.none() | st.integers(-70, 300),
        word=st.sampled_from(["", "Error", "OOMKilled", "Evicted", "\x1b[31m", "é"]),
        words=st.text(max_size=50),
        process_signal=st.none() | st.integers(-5, 100),
        disrupted=st.booleans(),
        behind=st.booleans(),
        gpus=st.booleans(),
        helper=st.booleans(),
    )
)
def test_any_evidence_has_a_cause_and_one_word(evidence: Evidence) -> None:
    reason = reason_of(evidence, row_of(evidence))
    assert reason == one_word(reason, "")
    assert 0 < len(reason) <= 64


def test_words_without_end_are_searched_only_so_far() -> None:
    assert judged(failed(1, message="x" * 8192 + "CUDA out of memory. Tried to allocate"))[0] == APP
