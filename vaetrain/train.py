"""Train a VAE of wireframes.

    accelerate launch vaetrain/train.py --config_file ddp
    accelerate launch vaetrain/train.py --experiment base data.shards=DIR train.epochs=50
    accelerate launch -m vaetrain.train --config_file ddp          (installed, from any folder)

The same command again resumes the run, on any number of processes. `--help` lists all settings.
`vaetrain/training/build.py` builds a run, and `vaetrain/training/trainer.py` is its loop.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

if __name__ == "__main__" and __spec__ is None:
    # Run as a file, Python puts this folder first on the path, where our modules would hide others
    # of the same name.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from shards.errors import DamagedShards, ReaderFailed, UserError
from shards.lifetime import die_with_parent
from shards.reading.reader_processes import start_reader_server
from vaetrain import cli, startup
from vaetrain.engines.launching.refusal import refuse


def main() -> None:
    """Run the command to its end; does not return."""
    # Done first: otherwise a rank whose launcher dies while it imports torch would train on as an
    # orphan. SIGTERM ends this process at once, or, during training, makes it save and exit.
    die_with_parent(signal.SIGTERM)
    # Before torch is imported, as this may start the program again under another launcher.
    command = startup.start(sys.argv[1:])
    if command.experiment.data.workers:
        try:
            start_reader_server("shards.reading.datasets", "vaetrain.startup")
        except ReaderFailed as error:
            cli.fail(str(error))

    from vaetrain.engines.crash import exit_this_rank
    from vaetrain.engines.start import start_engine
    from vaetrain.training.between_steps import TrainingFailed
    from vaetrain.training.build import build_run
    from vaetrain.training.trainer import Trainer

    try:
        settings = command.experiment.train
        engine = start_engine(command.launch, settings.precision, settings.timeout_seconds)
        Trainer(build_run(command, engine)).run()
    except TrainingFailed as error:
        if engine.is_main:
            cli.print_error(str(error))
        engine.shut_down(1)
    except UserError as error:
        refuse(str(error))
    except (DamagedShards, ReaderFailed) as error:
        # Only the rank that reads a damaged shard, or whose reader process died, has this one.
        exit_this_rank(engine.heartbeat, str(error))
    engine.shut_down(0)


if __name__ == "__main__":
    main()
