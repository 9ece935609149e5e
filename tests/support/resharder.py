"""A rank that does nothing but take a checkpoint over: $FROM is read by this world, and saved by it to $TO."""

from __future__ import annotations

import os
from pathlib import Path

from deepseek_trainer.checkpoint import load, state
from deepseek_trainer.config import load as load_config
from deepseek_trainer.distributed import mesh, sharding
from deepseek_trainer.distributed.waits import Waits
from deepseek_trainer.distributed.world import join
from deepseek_trainer.model import origin
from deepseek_trainer.optim.guard import Guard
from deepseek_trainer.optim.update import Update
from deepseek_trainer.pulse import PulseWriter
from support.saver import writer


def main() -> None:
    config = load_config(os.environ["DEEPSEEKJOB_RUN_CONFIG_FILE"])
    with join("gloo", os.environ) as world:
        found = load.newest_whole(Path(os.environ["FROM"]))
        assert found is not None
        source = origin.of(config.trainer, vocab_size=found.manifest.model["vocab_size"])
        model = source.bare()
        waits = Waits(PulseWriter.from_environment(os.environ), world.device)
        groups = mesh.groups(config.trainer.parallelism.mesh(world.size), world)
        sharding.shard(model, world, groups, config.trainer.training, waits)
        source.fill(model, world.device, drawn=False)
        update, guard = Update(model, config.trainer, world, waits), Guard(config.trainer.training.guard)
        beside = {**update.state, "guard": guard.state}
        assert not load.read_into(state.collect(model, update.optimizer, beside), found, world)
        writer(Path(os.environ["TO"]), world, model=found.manifest.model).save(
            state.collect(model, update.optimizer, beside), found.manifest.ledger
        )


if __name__ == "__main__":
    main()
