"""What happens before torch is imported: the command line, the settings, the right launcher.

`accelerate launch vaetrain/train.py --config_file ddp.yaml` hands the engine file to the script,
not to the launcher, which then starts one process (or one per GPU). So the script looks at the
engine it runs under and, where that is not the one asked for, starts itself again through
`accelerate launch --config_file ...`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from shards.errors import UserError
from shards.extras import require
from shards.location import require_driver
from vaetrain.augmentation.policy import load_policy
from vaetrain.cli import refuse
from vaetrain.config.command import Command, experiment_path, parse_command
from vaetrain.config.experiment import load_experiment
from vaetrain.engines.spec import Launch, read_engine_file, running_launch
from vaetrain.settings import ConfigError

RELAUNCHED = "VAETRAIN_RELAUNCHED"  # the engine file that was already applied: never twice

_LAUNCHER_PREFIXES = ("ACCELERATE_", "TORCHELASTIC_", "FSDP_", "GROUP_", "ROLE_", "LOCAL_")
_LAUNCHER_NAMES = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS"}


def start(argv: list[str]) -> Command:
    """Check the command line and settle under the engine it asks for.

    Does not return when the process has to start again under another engine, or when anything is
    wrong: then one line is printed by the main process and the exit status is 2.
    """
    arguments = parse_command(argv)
    try:
        experiment = load_experiment(experiment_path(arguments.experiment), arguments.settings)
        running = running_launch(os.environ)
        asked = running
        if arguments.config_file is not None:
            asked = read_engine_file(arguments.config_file)
        experiment.batching(asked.world_size)
        load_policy(experiment.augment, experiment.data.folder)
        require_driver(experiment.data.folder, f"data.shards={experiment.data.shards}")
        for name in set(experiment.trackers) - {"tensorboard"}:
            require(name, "track", f"tracker={experiment.tracker}")
        if asked != running:
            _start_again(arguments.config_file, asked, running, argv)
    except UserError as error:
        refuse(str(error))
    run_dir = arguments.run_dir or Path("runs") / experiment.name
    return Command(experiment, run_dir, running)


def _start_again(path: Path, asked: Launch, running: Launch, argv: list[str]) -> NoReturn:
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    if RELAUNCHED in os.environ:
        raise ConfigError(f"{path}: asked for {asked}, and its launcher started {running}")
    if int(os.environ.get("GROUP_WORLD_SIZE", "1")) > 1:
        script = " ".join([sys.argv[0], *argv])
        raise ConfigError(
            f"{path}: is not how this job was launched; on several machines type "
            f"accelerate launch --config_file {path} {script}"
        )
    if os.environ.get("RANK", "0") != "0":
        sys.exit(0)  # the first process becomes the launcher; its ranks take the others' place
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in _LAUNCHER_NAMES and not name.startswith(_LAUNCHER_PREFIXES)
    }
    environment[RELAUNCHED] = str(path)
    # Port 0 lets two runs share a machine.
    command = [*launcher, "--config_file", str(path), "--main_process_port", "0"]
    sys.stdout.flush()
    os.execve(sys.executable, [*command, os.path.abspath(sys.argv[0]), *argv], environment)
