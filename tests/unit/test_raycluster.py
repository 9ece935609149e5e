"""What the containers of Ray are told, what they make of it, and what a raylet is spared."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from deepseek_trainer.config import ConfigError
from deepseek_trainer.contract import Env, RayPorts
from deepseek_trainer.raycluster import __main__, command, settings, startup
from deepseek_trainer.raycluster.settings import MIN_OBJECT_STORE_BYTES
from support.eventually import eventually


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    token = tmp_path / "token"
    token.write_text("secret\n")
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        Env.POD_IP: "10.0.0.7",
        Env.RAY_HEAD: "job-ray.default.svc",
        Env.RAY_OBJECT_STORE: "200000000",
        Env.RAY_CPUS: "3",
    }


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"RAY_AUTH_MODE": ""}, "RAY_AUTH_MODE is ''"),
        ({"RAY_AUTH_MODE": "disabled"}, "set it to token"),
        ({"RAY_AUTH_TOKEN_PATH": ""}, "RAY_AUTH_TOKEN_PATH is not set"),
        ({"RAY_AUTH_TOKEN_PATH": "/nowhere/token"}, "is the Secret mounted?"),
        ({"RAY_AUTH_TOKEN_PATH": os.devnull}, "is empty"),
        ({Env.POD_IP: ""}, f"{Env.POD_IP} is not set"),
        ({Env.RAY_HEAD: ""}, f"{Env.RAY_HEAD} is not set"),
        ({Env.RAY_OBJECT_STORE: "1Gi"}, f"{Env.RAY_OBJECT_STORE} is '1Gi'"),
        ({Env.RAY_OBJECT_STORE: "1000"}, f"{MIN_OBJECT_STORE_BYTES} or more"),
        ({Env.RAY_CPUS: "0"}, "1 or more"),
    ],
)
def test_wrong_environment_is_refused_with_the_variable_and_the_remedy(
    environ: dict[str, str], change: dict[str, str], says: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        settings.read("node", {**environ, **change})
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_container_without_a_token_ends_with_the_status_of_a_wrong_config(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    assert __main__.main(["head"]) == 78
    assert "RAY_AUTH_MODE" in capsys.readouterr().out


def test_a_node_without_a_token_waits_for_it_until_it_is_told_to_end(environ: dict[str, str]) -> None:
    Path(environ["RAY_AUTH_TOKEN_PATH"]).unlink()
    command = [sys.executable, "-m", "deepseek_trainer.raycluster", "node"]
    with subprocess.Popen(command, env={**os.environ, **environ}, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "is the Secret mounted?" in process.stdout.readline()
        assert process.poll() is None
        process.terminate()
        assert process.wait(10) == 0


def _flags(words: list[str]) -> dict[str, str]:
    return {word[2:].partition("=")[0]: word.partition("=")[2] for word in words if word.startswith("--")}


def test_node_joins_the_head_on_the_ports_of_the_contract(environ: dict[str, str]) -> None:
    flags = _flags(command.build(settings.read("node", environ)))
    assert flags["address"] == f"job-ray.default.svc:{RayPorts.GCS}"
    assert flags["node-ip-address"] == "10.0.0.7"
    assert flags["num-cpus"] == "3"
    assert flags["num-gpus"] == "0"
    assert flags["object-store-memory"] == "200000000"
    assert "head" not in flags
    ports = [int(value) for name, value in flags.items() if name.endswith("-port") and "worker" not in name]
    assert {RayPorts.NODE_MANAGER, RayPorts.OBJECT_MANAGER} <= set(ports)
    assert len(ports) == len(set(ports))
    assert all(RayPorts.NODE_MANAGER <= port <= RayPorts.AGENTS[1] for port in ports)
    assert (int(flags["min-worker-port"]), int(flags["max-worker-port"])) == RayPorts.WORKERS


def test_head_runs_no_task_and_needs_no_other_head(environ: dict[str, str]) -> None:
    del environ[Env.RAY_HEAD]
    flags = _flags(command.build(settings.read("head", environ)))
    assert {"head", "block"} <= flags.keys()
    assert flags["port"] == str(RayPorts.GCS)
    assert flags["num-cpus"] == "0"
    assert flags["include-dashboard"] == "false"
    assert "address" not in flags


def test_ray_tells_nobody_about_its_use_whatever_the_pod_sets_otherwise_stands(environ: dict[str, str]) -> None:
    made = command.environment({**environ, "RAY_event_stats": "1"})
    assert made["RAY_USAGE_STATS_ENABLED"] == "0"
    assert made["RAY_event_stats"] == "1"
    assert made["RAY_AUTH_MODE"] == "token"


def test_raylet_is_told_at_once_that_its_agent_listens_nowhere(tmp_path: Path) -> None:
    program = tmp_path / "raylet"
    program.symlink_to(sys.executable)
    (tmp_path / "session").mkdir()
    flags = [f"--session_dir={tmp_path / 'session'}", "--node_id=abc"]
    with subprocess.Popen([program, "-c", "input()", *flags], stdin=subprocess.PIPE) as process:
        found = eventually(lambda: startup.find(os.getpid(), "raylet"), deadline_s=10)
        assert found == process.pid
        startup.answer_for_agent(found)
        written = tmp_path / "session" / "dashboard_agent_listen_port_abc"
        assert written.read_text() == "-1"
        written.write_text("52365")  # the agent itself was faster
        startup.answer_for_agent(found)
        assert written.read_text() == "52365"
        process.communicate(b"\n")
    assert startup.find(os.getpid(), "raylet") is None
