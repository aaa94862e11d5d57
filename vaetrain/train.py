"""Train a VAE of wireframes.

    accelerate launch vaetrain/train.py --config_file accelerate_configs/ddp.yaml
    accelerate launch vaetrain/train.py --experiment base data.shards=DIR train.epochs=50

The same command again resumes the run, on any number of processes. `--help` lists all settings.
What a run does is told in `vaetrain/training.py`.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    # Run as a script, Python looks for modules in vaetrain/ itself, where ours would hide others.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from shards.errors import DamagedShards, UserError
from shards.lifetime import die_with_parent
from shards.reading.reader_processes import start_reader_server
from vaetrain import cli, startup


def main() -> None:
    """Run the command to its end; does not return."""
    # At once: a rank whose launcher died while it imported torch would train on as an orphan. To
    # what trains it means save and leave (`StopRequest`), to what does not yet it is the end.
    die_with_parent(signal.SIGTERM)
    # This may start the script anew under another launcher, or refuse: before torch is imported.
    command = startup.start(sys.argv[1:])
    start_reader_server("shards.reading.datasets", "vaetrain.startup")

    from vaetrain.engines.crash import exit_this_rank
    from vaetrain.engines.factory import start_engine
    from vaetrain.training.trainer import Trainer, TrainingFailed

    try:
        settings = command.experiment.train
        engine = start_engine(command.launch, settings.precision, settings.timeout_seconds)
        Trainer(command, engine).run()
    except TrainingFailed as error:
        if engine.is_main:
            print(f"error: {error}", file=sys.stderr)
        engine.shut_down(1)
    except UserError as error:
        cli.refuse(str(error))
    except DamagedShards as error:
        # Only the rank that reads a damaged shard knows of it.
        exit_this_rank(engine.heartbeat, str(error))
    engine.shut_down(0)


if __name__ == "__main__":
    main()
