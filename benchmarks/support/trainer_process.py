"""An experiment's trainer under an engine, in processes of its own, that does what it is told.

Several of them can take turns, so that engines are compared in interleaved rounds. What they can
be told are the methods of `steps.Steps`.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # as ranks run it
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from shards.errors import UserError
from shards.reading.reader_processes import start_reader_server
from vaetrain import cli, startup
from vaetrain.config import command
from vaetrain.config.experiment import load_experiment

ROOT = Path(__file__).resolve().parents[2]
QUICK_SETTINGS = ("data.width=64", "data.max_height=128", "train.global_batch_size=8")
SOCKET = "VAETRAIN_BENCHMARK_SOCKET"


def engine_names() -> list[str]:
    """The files of `accelerate_configs/`, without their ending."""
    return sorted(path.stem for path in (ROOT / "accelerate_configs").glob("*.yaml"))


def add_trainer_arguments(parser: argparse.ArgumentParser) -> None:
    """Let a benchmark's user choose what is trained."""
    parser.add_argument("--experiment", help="YAML file, or a name in launch/experiments/")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="override any setting")


def trainer_settings(arguments: argparse.Namespace) -> list[str]:
    """Return the settings of a benchmark's trainer; those given by the user take precedence."""
    quick = QUICK_SETTINGS if arguments.quick else ()
    return [*quick, *arguments.settings, f"train.seed={arguments.seed}"]


class TrainerProcess:
    """A trainer in processes of its own; a context that ends them."""

    def __init__(self, engine: str, experiment: str | None, settings: Sequence[str]) -> None:
        """Start it; what it has to say it says itself.

        Args:
            engine: a file of `accelerate_configs/`, without its ending.
            experiment, settings: as the trainer takes them.

        Raises ConfigError where a setting is wrong, UserError where it does not come up.
        """
        load_experiment(command.experiment_path(experiment), list(settings))
        self.engine = engine
        self._folder = tempfile.TemporaryDirectory()
        place = str(Path(self._folder.name) / "socket")
        with socket.socket(socket.AF_UNIX) as waiting:
            waiting.bind(place)
            waiting.listen()
            launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
            launcher += ["--config_file", str(ROOT / f"accelerate_configs/{engine}.yaml")]
            launcher += ["--main_process_port", "0", "--quiet", str(Path(__file__).resolve())]
            launcher += ["--run-dir", str(Path(self._folder.name) / "run")]
            if experiment is not None:
                launcher += ["--experiment", experiment]
            self._process = subprocess.Popen(
                [*launcher, *settings], env={**os.environ, SOCKET: place}, stdout=subprocess.DEVNULL
            )
            waiting.settimeout(1.0)
            self._connection = self._accept(waiting)

    def _accept(self, waiting: socket.socket) -> Connection:
        while self._process.poll() is None:
            try:
                return Connection(waiting.accept()[0].detach())
            except TimeoutError:
                continue
        self._folder.cleanup()
        raise UserError(f"{self.engine}: the trainer did not start; its own messages say why")

    def __call__(self, method: str, **arguments: Any) -> Any:
        """Have all ranks call a method of `steps.Steps`; what the main process returns.

        Raises UserError where the trainer ends instead.
        """
        try:
            self._connection.send((method, arguments))
            return self._connection.recv()
        except (EOFError, ConnectionError) as error:
            message = f"{self.engine}: the trainer ended; its own messages say why"
            raise UserError(message) from error

    def __enter__(self) -> TrainerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._process.wait()
        self._folder.cleanup()


def serve() -> None:
    """A rank's part: build the trainer, and do what the main process is told; does not return."""
    command = startup.start(sys.argv[1:])
    start_reader_server("shards.reading.datasets", "vaetrain.startup")

    import torch.distributed as dist

    from benchmarks.support.steps import Steps
    from shards.errors import DamagedShards
    from vaetrain.engines.factory import start_engine

    connection = None
    try:
        engine = start_engine(command.launch, command.experiment.train.precision)
        steps = Steps(command, engine)
    except UserError as error:
        cli.refuse(str(error))
    except DamagedShards as error:
        cli.fail(str(error))
    if engine.is_main:
        with socket.socket(socket.AF_UNIX) as own:
            own.connect(os.environ[SOCKET])
            connection = Connection(own.detach())
    while True:
        order = [None if connection is None else _next(connection)]
        if dist.is_initialized():
            dist.broadcast_object_list(order)
        if order[0] is None:
            break
        method, arguments = order[0]
        answer = getattr(steps, method)(**arguments)
        if connection is not None:
            connection.send(answer)
    steps.close()
    engine.shut_down(0)


def _next(connection: Connection) -> tuple[str, dict[str, Any]] | None:
    try:
        return connection.recv()
    except EOFError:
        return None  # whoever gave orders is done, or gone


if __name__ == "__main__":
    serve()
