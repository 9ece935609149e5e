"""Joining the process group: how long a collective may take is the launcher's to say."""

from __future__ import annotations

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from deepseek_trainer.config import ConfigError
from deepseek_trainer.contract import Env
from deepseek_trainer.distributed.world import collective_timeout, join

pytestmark = pytest.mark.training


@pytest.mark.parametrize(("environ", "seconds"), [({}, 600), ({Env.COLLECTIVE_TIMEOUT: "45"}, 45)])
def test_collectives_have_the_time_that_the_launcher_gives_them(environ: dict[str, str], seconds: int) -> None:
    with join("gloo", environ) as world:
        assert world.total(1.0) == [1.0]
        backend = dist.group.WORLD._get_backend(torch.device("cpu"))  # type: ignore[union-attr]
        assert backend.options._timeout == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "0", "-5", "ten", "1.5"])
def test_a_time_that_is_no_number_of_seconds_is_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError, match=f"{Env.COLLECTIVE_TIMEOUT} is '{text}': it must be a whole number"):
        collective_timeout({Env.COLLECTIVE_TIMEOUT: text})
