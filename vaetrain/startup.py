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
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import NoReturn

from shards.errors import UserError
from shards.location import INDEX_NAME, describe_other_files, require_driver
from vaetrain.augmentation.policy import load_policy
from vaetrain.config.command import Command, experiment_path, parse_command
from vaetrain.config.experiment import Experiment, load_experiment
from vaetrain.data.config import SAMPLE_SHARDS
from vaetrain.engines.devices import count_gpus, user_threads
from vaetrain.engines.engine_files import base_file, is_shipped, read_engine_file
from vaetrain.engines.launching.launch_settings import refuse_user_variables
from vaetrain.engines.launching.launcher_command import (
    LauncherCommand,
    is_under_launcher,
    launcher_command,
    launcher_engine_file,
)
from vaetrain.engines.launching.rank_variables import REMEDY, Ranks, read_ranks
from vaetrain.engines.launching.refusal import refuse
from vaetrain.engines.spec import Launch, running_launch
from vaetrain.settings import ConfigError
from vaetrain.trackers.registry import require_trackers

RELAUNCHED = "VAETRAIN_RELAUNCHED"  # environment variable: set after one relaunch; never twice

_LAUNCHER_PREFIXES = ("ACCELERATE_", "TORCHELASTIC_", "FSDP_", "GROUP_", "ROLE_", "LOCAL_")
_LAUNCHER_NAMES = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS"}
# Options of accelerate launch that choose the kind of launch, in place of the engine file.
_KINDS = {"multi_gpu", "use_deepspeed", "use_fsdp", "use_megatron_lm", "tpu", "cpu"}


def start(argv: list[str]) -> Command:
    """Check the command line and all settings, and make sure that the right engine is running.

    Does not return if the process has to start again under another engine. On an error the main
    process prints one line, and the exit status is 2.
    """
    arguments = parse_command(argv)
    try:
        experiment = load_experiment(experiment_path(arguments.experiment), arguments.settings)
        experiment.batching(1)  # what one rank cannot do, several cannot do either
        load_policy(experiment.augment, experiment.data.folder)
        require_shards(experiment)
        require_trackers(experiment.trackers, f"tracker={experiment.tracker.use}")
        ranks, launcher = read_ranks(os.environ), launcher_command()
        running = started_launch(arguments.config_file, launcher)
        asked = requested_launch(arguments.config_file, running, launcher, ranks)
        if asked.visible_gpus is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible_gpus(asked, os.environ)
        require_gpus(asked, ranks)
        require_same(experiment, asked)
        experiment.batching(asked.world_size)
        if asked != running:
            _relaunch(arguments.config_file, asked, running, launcher, ranks, argv)
    except UserError as error:
        refuse(str(error))
    if ranks.rank == 0:
        for note in asked.notes:
            print(f"note: {note}", file=sys.stderr, flush=True)
    set_environment(os.environ, deterministic=experiment.train.deterministic)
    run_dir = arguments.run_dir or Path("runs") / experiment.name
    return Command(experiment, run_dir, asked)


def require_shards(experiment: Experiment) -> None:
    """Raise UserError if the shards are not where `data.shards` says, or their driver is missing.

    An index at an address is read later, and the built-in pages are built later.
    """
    folder = experiment.data.folder
    require_driver(folder, f"data.shards={experiment.data.shards}")
    is_own = isinstance(folder, Path) and folder != SAMPLE_SHARDS
    if is_own and not (folder / INDEX_NAME).exists():
        missing = f"{folder} holds no {INDEX_NAME}; build shards there with shards.build"
        raise ConfigError(f"data.shards: {describe_other_files(folder) or missing}")


def started_launch(engine_file: Path | None, launcher: LauncherCommand | None) -> Launch | None:
    """Return the launch of this process; None if it is not supported, but is to be replaced.

    Args:
        engine_file: the engine file after the script, which replaces that of the launcher.

    Raises ConfigError naming a variable that is refused.
    """
    if engine_file is None or launcher is None:
        return running_launch(os.environ)
    refuse_user_variables(launcher.environment)
    try:
        return running_launch(os.environ)
    except ConfigError:
        return None


def set_environment(environment: MutableMapping[str, str], *, deterministic: bool) -> None:
    """Set the variables that CUDA's libraries read only once, when torch first uses them.

    cuBLAS repeats its results only with a workspace of fixed size; torch refuses its deterministic
    mode without one. A value that the user has set stays.
    """
    if deterministic:
        environment.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def requested_launch(
    engine_file: Path | None,
    running: Launch | None,
    launcher: LauncherCommand | None,
    ranks: Ranks,
) -> Launch:
    """Return the launch that the command line asks for.

    Args:
        engine_file: the engine file after the script, if any; it wins over the launcher's.
        running: the launch of this process; None only with an engine file.

    Options of the launcher win over the keys of any engine file. The number of processes in an
    engine file of one's own is kept, and that in a shipped file follows the devices.

    Raises ConfigError if a key is refused, or the engine does not work with that number of
    processes.
    """
    options = {} if launcher is None else launcher.options
    file = engine_file or launcher_engine_file(launcher)
    described = None
    if file is not None and (engine_file is not None or not options.keys() & _KINDS):
        described = read_engine_file(file, _settings_of(options))
        if described.machines > 1 and ranks.machines == 1:
            raise ConfigError(
                f"{file}: num_machines is {described.machines}, but this is one machine; on each "
                "machine use launch/multinode.sh, or accelerate launch --config_file "
                f"{file} {' '.join(_program())}"
            )
    asked = described if engine_file is not None else running
    if engine_file is None and described is not None:
        asked = _with_sources(running, described)
    if ranks.machines > 1:
        # All machines together have been told their number of ranks.
        shipped = file is not None and is_shipped(file)
        return dataclasses.replace(asked, world_size=ranks.world_size) if shipped else asked
    count = options.get("num_processes")
    if count is not None:
        if not count.isdecimal() or not asked.spec.allows(int(count)):
            raise ConfigError(
                f"--num_processes: is {count}, which {asked.engine} does not work with; "
                "give an engine file, e.g. --config_file ddp"
            )
        return dataclasses.replace(asked, world_size=int(count))
    if engine_file is None and described is not None and is_shipped(file):
        return dataclasses.replace(asked, world_size=described.world_size)
    return asked


def _settings_of(options: Mapping[str, str]) -> dict[str, str]:
    """Return the launcher's options that are settings of a launch, not of the launcher itself."""
    own = ("config_file", "rdzv_backend")
    return {name: text for name, text in options.items() if name not in own}


def _with_sources(running: Launch, described: Launch) -> Launch:
    """Return the running launch with what only the engine file tells.

    Accelerate starts one process for MULTI_CPU, whatever num_processes is.
    """
    if running.engine == "single" and described.engine == "ddp":
        return described
    return dataclasses.replace(
        running,
        visible_gpus=described.visible_gpus,
        precision_source=described.precision_source,
        clip_norm=described.clip_norm,
        notes=described.notes,
    )


def visible_gpus(asked: Launch, environment: Mapping[str, str]) -> str:
    """Return CUDA_VISIBLE_DEVICES of a launch; raise ConfigError if it contradicts the user's.

    An empty value, which trains on the CPU, wins.
    """
    given = environment.get("CUDA_VISIBLE_DEVICES")
    if given is None or not asked.visible_gpus or given == asked.visible_gpus:
        return asked.visible_gpus or ""
    if given == "":
        return given
    raise ConfigError(
        f"gpu_ids is {asked.visible_gpus}, but CUDA_VISIBLE_DEVICES is {given}; remove one of them"
    )


def require_gpus(asked: Launch, ranks: Ranks) -> None:
    """Raise ConfigError if two ranks of this machine would share a GPU, which NCCL refuses."""
    several = ranks.machines > 1
    count = ranks.local_world_size if several else asked.world_size
    gpus = count_gpus(os.environ) if count > 1 else 0
    if 0 < gpus < count:
        # launch/multinode.sh counts the ranks of a machine.
        option = "--processes" if several else "--num_processes"
        raise ConfigError(
            f"{count} ranks on this machine, which shows {gpus} GPU{'s' * (gpus > 1)}; write "
            f"{option} {gpus}, or CUDA_VISIBLE_DEVICES= before the command to train on the CPU"
        )


def require_same(experiment: Experiment, asked: Launch) -> None:
    """Raise ConfigError if the launch asks for what the experiment or this device forbids.

    The message names the engine file's key or the launcher's variable, unless the experiment sets
    the value.
    """
    precision = experiment.train.precision or asked.precision
    if precision == "fp16" and not count_gpus(os.environ):
        if experiment.train.precision is None:
            raise ConfigError(
                f"{asked.precision_source} is fp16, which needs a GPU; write no or bf16 there, "
                "or set train.precision=no"
            )
        raise ConfigError("train.precision: fp16 needs a GPU; allowed on a CPU are no and bf16")
    clip, norm = asked.clip_norm, experiment.optimizer.clip_norm
    if clip is not None and clip.text not in (f"{norm:g}", str(norm)):
        raise ConfigError(
            f"{clip.source} is {clip.value!r}, but the experiment's optimizer.clip_norm is "
            f"{norm:g}; set optimizer.clip_norm={clip.text}, or write auto there"
        )


def _relaunch(
    engine_file: Path | None,
    asked: Launch,
    running: Launch | None,
    launcher: LauncherCommand | None,
    ranks: Ranks,
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
    if ranks.machines > 1:
        raise ConfigError(
            f"{engine_file}: differs from the launcher's engine file; on several machines use "
            f"accelerate launch --config_file {engine_file} {' '.join([*program, *argv])}"
        )
    if ranks.address is not None and not is_under_launcher():
        raise ConfigError(
            f"{engine_file}: asks for {asked}, but RANK is {ranks.rank} and WORLD_SIZE "
            f"{ranks.world_size}, which no running launcher has set; {REMEDY}"
        )
    if ranks.rank != 0:
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
    options = ["--num_processes", str(asked.world_size), "--main_process_port", str(asked.port)]
    if engine_file is None:
        # Accelerate starts several processes on a CPU only with --multi_gpu.
        kind = ["--multi_gpu"] if asked.engine == "ddp" and asked.world_size > 1 else []
        command = launcher.with_options(*options, *kind)
    else:
        command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
        command += ["--config_file", str(base_file(asked.spec, engine_file)), *options]
        command += ["--mixed_precision", asked.precision]
        command += _options_of(asked)
        command += [*program, *argv]
    sys.stdout.flush()
    os.execve(sys.executable, command, environment)


def _options_of(asked: Launch) -> list[str]:
    """Return the launcher's options that select an engine in the file of its kind."""
    pairs = (*asked.spec.options.items(), *asked.options)
    return [word for name, value in dict(pairs).items() for word in (f"--{name}", value)]


def _program() -> list[str]:
    """Return the launcher's arguments that name this program: a file, or `-m` and a module."""
    module = sys.modules["__main__"].__spec__
    return [os.path.abspath(sys.argv[0])] if module is None else ["-m", module.name]
