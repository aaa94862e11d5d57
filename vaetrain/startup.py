"""Start of the trainer before torch is imported: command line, settings, launcher.

`accelerate launch vaetrain/train.py --config_file ddp` passes the engine file to the script, not to
the launcher, which then starts one process (or one per GPU). The script compares the engine it runs
under, and the number of processes, with those asked for. If they differ, it starts itself again
through `accelerate launch --config_file ... --num_processes ...`.
"""

from __future__ import annotations

import dataclasses
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
from vaetrain.engines.devices import count_gpus, user_threads
from vaetrain.engines.engine_files import is_shipped, read_engine_file
from vaetrain.engines.launcher_command import LauncherCommand, launcher_command
from vaetrain.engines.spec import Launch, running_launch
from vaetrain.settings import ConfigError
from vaetrain.trackers.registry import require_trackers

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
        launcher = launcher_command()
        asked = requested_launch(arguments.config_file, running, launcher)
        require_gpus(asked)
        experiment.batching(asked.world_size)
        load_policy(experiment.augment, experiment.data.folder)
        require_driver(experiment.data.folder, f"data.shards={experiment.data.shards}")
        require_trackers(experiment.trackers, f"tracker={experiment.tracker.use}")
        if asked != running:
            _relaunch(arguments.config_file, asked, running, launcher, argv)
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


def requested_launch(
    engine_file: Path | None, running: Launch, launcher: LauncherCommand | None
) -> Launch:
    """Return the launch that the command line asks for.

    Args:
        engine_file: the engine file after the script, if any; it wins over the launcher's.

    `--num_processes` of the launcher wins over the number in any engine file. The number in an
    engine file of one's own is kept, and that in a shipped file follows the devices.

    Raises ConfigError if the engine does not work with that number of processes.
    """
    launcher_file = None if launcher is None else launcher.option("config_file")
    asked = running if engine_file is None else read_engine_file(engine_file)
    file = engine_file or (None if launcher_file is None else Path(launcher_file))
    if _machines() > 1:
        # All machines together have been told their number of ranks.
        shipped = file is not None and is_shipped(file)
        return dataclasses.replace(asked, world_size=running.world_size) if shipped else asked
    count = None if launcher is None else launcher.option("num_processes")
    if count is not None:
        if not count.isdecimal() or not asked.spec.allows(int(count)):
            raise ConfigError(
                f"--num_processes: is {count}, which {asked.engine} does not work with; "
                "give an engine file, e.g. --config_file ddp"
            )
        return dataclasses.replace(asked, world_size=int(count))
    if engine_file is None and file is not None and is_shipped(file):
        return dataclasses.replace(asked, world_size=read_engine_file(file).world_size)
    return asked


def require_gpus(asked: Launch) -> None:
    """Raise ConfigError if two ranks of this machine would share a GPU, which NCCL refuses."""
    several = _machines() > 1
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if several else asked.world_size
    gpus = count_gpus(os.environ) if ranks > 1 else 0
    if 0 < gpus < ranks:
        # launch/multinode.sh counts the ranks of a machine.
        option = "--processes" if several else "--num_processes"
        raise ConfigError(
            f"{ranks} ranks on this machine, which shows {gpus} GPU{'s' * (gpus > 1)}; write "
            f"{option} {gpus}, or CUDA_VISIBLE_DEVICES= before the command to train on the CPU"
        )


def _machines() -> int:
    return int(os.environ.get("GROUP_WORLD_SIZE", "1"))


def _relaunch(
    engine_file: Path | None,
    asked: Launch,
    running: Launch,
    launcher: LauncherCommand | None,
    argv: list[str],
) -> NoReturn:
    """Replace this process by a launcher of the same program with the engine asked for.

    Args:
        engine_file: the engine file after the script; None: that of the launcher, of which only the
            number of processes was wrong.
    """
    program = _program()
    if RELAUNCHED in os.environ:
        raise ConfigError(
            f"{engine_file or 'the launcher'}: asked for {asked}, but its launcher started "
            f"{running}; correct distributed_type and num_processes"
        )
    if _machines() > 1:
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
    environment[RELAUNCHED] = str(engine_file or launcher.option("config_file"))
    threads = user_threads(os.environ, launcher)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    # Port 0 is any free port, so that two runs can share a machine.
    options = ["--num_processes", str(asked.world_size), "--main_process_port", "0"]
    if engine_file is None:
        command = launcher.with_options(*options)
    else:
        command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
        command += ["--config_file", str(engine_file), *options, *program, *argv]
    sys.stdout.flush()
    os.execve(sys.executable, command, environment)


def _program() -> list[str]:
    """Return the launcher's arguments that name this program: a file, or `-m` and a module."""
    module = sys.modules["__main__"].__spec__
    return [os.path.abspath(sys.argv[0])] if module is None else ["-m", module.name]
