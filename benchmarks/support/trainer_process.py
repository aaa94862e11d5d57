"""A trainer in processes of its own that a benchmark controls by method calls.

Several of them run in interleaved rounds, so that engines are compared under the same conditions.
The methods are those of `steps.Steps`.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the launcher runs the file
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from shards.errors import UserError
from shards.reading.reader_processes import start_reader_server
from vaetrain import cli, startup
from vaetrain.config.command import experiment_path
from vaetrain.config.experiment import load_experiment
from vaetrain.engines.engine_files import engine_file
from vaetrain.engines.launching.refusal import refuse

QUICK_SETTINGS = ("data.width=64", "data.max_height=128", "train.global_batch_size=8")
SOCKET = "VAETRAIN_BENCHMARK_SOCKET"


def add_trainer_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that choose the experiment to train."""
    parser.add_argument("--experiment", help="YAML file, or a name in launch/experiments/")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="override any setting")


def trainer_settings(arguments: argparse.Namespace) -> list[str]:
    """Return the settings of a benchmark's trainer; a later setting overrides an earlier one."""
    quick = QUICK_SETTINGS if arguments.quick else ()
    return [*quick, *arguments.settings, f"train.seed={arguments.seed}"]


def thread_budget(about: Mapping[str, Any]) -> int | None:
    """Return the CPU threads of all ranks together; None on a GPU, whose rate they do not decide.

    Args:
        about: result of `Steps.about`.
    """
    return about["threads"] if about["device"] == "cpu" else None


class TrainerProcess:
    """A trainer started by the Accelerate launcher; a context manager that ends it on exit."""

    def __init__(
        self,
        engine: str,
        experiment: str | None,
        settings: Sequence[str],
        processes: int | None = None,
    ) -> None:
        """Start the trainer and wait until it connects; its errors go to stderr.

        Args:
            engine: an engine file, or a name in `accelerate_configs/`.
            experiment, settings: as on the trainer's command line.
            processes: world size; None: that of the engine file.

        Raises ConfigError for a wrong setting, UserError if the trainer ends before it connects.
        """
        load_experiment(experiment_path(experiment), list(settings))
        self.engine = engine
        self._folder = tempfile.TemporaryDirectory()
        socket_path = str(Path(self._folder.name) / "socket")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(socket_path)
            listener.listen()
            launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
            launcher += ["--config_file", str(engine_file(engine))]
            if processes is not None:
                launcher += ["--num_processes", str(processes)]
            launcher += ["--main_process_port", "0", "--quiet", str(Path(__file__).resolve())]
            launcher += ["--run-dir", str(Path(self._folder.name) / "run")]
            if experiment is not None:
                launcher += ["--experiment", experiment]
            self._process = subprocess.Popen(
                [*launcher, *settings],
                env={**os.environ, SOCKET: socket_path},
                stdout=subprocess.DEVNULL,
            )
            listener.settimeout(1.0)
            self._connection = self._accept(listener)

    def _accept(self, listener: socket.socket) -> Connection:
        while self._process.poll() is None:
            try:
                return Connection(listener.accept()[0].detach())
            except TimeoutError:
                continue
        self._folder.cleanup()
        raise UserError(f"{self.engine}: the trainer did not start; see its messages above")

    def __call__(self, method: str, **arguments: Any) -> Any:
        """Call a method of `steps.Steps` on all ranks, and return the main process's result.

        Raises UserError if the trainer ends instead.
        """
        try:
            self._connection.send((method, arguments))
            return self._connection.recv()
        except (EOFError, ConnectionError) as error:
            message = f"{self.engine}: the trainer ended; see its messages above"
            raise UserError(message) from error

    def __enter__(self) -> TrainerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._process.wait()
        self._folder.cleanup()


def serve() -> None:
    """Run one rank: build the trainer, run the calls from the benchmark, end the process."""
    command = startup.start(sys.argv[1:])
    start_reader_server("shards.reading.datasets", "vaetrain.startup")

    import torch.distributed as dist

    from benchmarks.support.trainer_tasks import Steps
    from shards.errors import DamagedShards
    from vaetrain.engines.start import start_engine

    connection = None
    try:
        engine = start_engine(command.launch, command.experiment.train.precision)
        steps = Steps(command, engine)
    except UserError as error:
        refuse(str(error))
    except DamagedShards as error:
        cli.fail(str(error))
    if engine.is_main:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(os.environ[SOCKET])
            connection = Connection(client.detach())
    while True:
        call = [None if connection is None else _receive(connection)]
        if dist.is_initialized():
            dist.broadcast_object_list(call)
        if call[0] is None:
            break
        method, arguments = call[0]
        result = getattr(steps, method)(**arguments)
        if connection is not None:
            connection.send(result)
    steps.close()
    engine.shut_down(0)


def _receive(connection: Connection) -> tuple[str, dict[str, Any]] | None:
    """Return the next call, or None when the benchmark has closed the connection."""
    try:
        return connection.recv()
    except EOFError:
        return None


if __name__ == "__main__":
    serve()
