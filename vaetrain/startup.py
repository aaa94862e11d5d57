"""Start of the trainer before torch is imported: command line, settings, launcher.

`accelerate launch vaetrain/train.py --config_file ddp` passes the engine file to the script, not to
the launcher, which then starts one process (or one per GPU). The script compares the engine it runs
under with the one asked for. If they differ, it starts itself again through
`accelerate launch --config_file ...`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import NoReturn

from shards.errors import UserError
from shards.location import require_driver
from vaetrain.augmentation.policy import load_policy
from vaetrain.cli import refuse
from vaetrain.config.command import Command, experiment_path, parse_command
from vaetrain.config.experiment import load_experiment
from vaetrain.engines.engine_files import read_engine_file
from vaetrain.engines.spec import Launch, running_launch
from vaetrain.settings import ConfigError
from vaetrain.trackers.table import require_trackers

RELAUNCHED = "VAETRAIN_RELAUNCHED"  # environment variable: set after one relaunch; never twice

_LAUNCHER_PREFIXES = ("ACCELERATE_", "TORCHELASTIC_", "FSDP_", "GROUP_", "ROLE_", "LOCAL_")
_LAUNCHER_NAMES = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS"}


def start(argv: list[str]) -> Command:
    """Check the command line and all settings, and make sure that the right engine is running.

    Does not return if the process has to start again under another engine. On an error the main
    process prints one line, and the exit status is 2.
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
        require_trackers(experiment.trackers, f"tracker={experiment.tracker}")
        if asked != running:
            _relaunch(arguments.config_file, asked, running, argv)
    except UserError as error:
        refuse(str(error))
    set_environment(os.environ, deterministic=experiment.train.deterministic)
    run_dir = arguments.run_dir or Path("runs") / experiment.name
    return Command(experiment, run_dir, running)


def set_environment(environment: MutableMapping[str, str], *, deterministic: bool) -> None:
    """Set the variables that CUDA's libraries read only once, when torch first uses them.

    cuBLAS repeats its results only with a workspace of fixed size; torch refuses its deterministic
    mode without one. A value that the user has set stays.
    """
    if deterministic:
        environment.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def _relaunch(engine_file: Path, asked: Launch, running: Launch, argv: list[str]) -> NoReturn:
    """Replace this process by a launcher of the same program under an engine file."""
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    program = _program()
    if RELAUNCHED in os.environ:
        raise ConfigError(
            f"{engine_file}: asked for {asked}, but its launcher started {running}; "
            "correct distributed_type and num_processes"
        )
    if int(os.environ.get("GROUP_WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            f"{engine_file}: differs from the launcher's engine file; on several machines use "
            f"accelerate launch --config_file {engine_file} {' '.join([*program, *argv])}"
        )
    if os.environ.get("RANK", "0") != "0":
        sys.exit(0)  # rank 0 becomes the launcher, which starts all ranks again
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in _LAUNCHER_NAMES and not name.startswith(_LAUNCHER_PREFIXES)
    }
    environment[RELAUNCHED] = str(engine_file)
    # Port 0 is any free port, so that two runs can share a machine.
    command = [*launcher, "--config_file", str(engine_file), "--main_process_port", "0"]
    sys.stdout.flush()
    os.execve(sys.executable, [*command, *program, *argv], environment)


def _program() -> list[str]:
    """Return the launcher's arguments that name this program: a file, or `-m` and a module."""
    module = sys.modules["__main__"].__spec__
    return [os.path.abspath(sys.argv[0])] if module is None else ["-m", module.name]
