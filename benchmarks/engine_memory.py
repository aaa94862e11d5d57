"""Memory of a rank for a large model under each engine, compared with theory.

    python -m benchmarks.engine_memory [--quick] [--out DIR] [--engines NAME...]

Starts each engine with a rank on every GPU, or two ranks on a CPU, trains on one small random page
per rank, and counts the bytes of all live tensors after the second step's backward pass, when
weights, gradients and moments exist at once. On a GPU the allocator's peak is reported as well.
Writes engine_memory.json and .png.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

if __name__ == "__main__" and __package__ is None:  # the launcher runs the file
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from benchmarks.support import harness, report
from benchmarks.support.memory import REST, live_storages, predicted_state, storage_bytes
from shards import cli
from shards.randomness import sample_keys
from vaetrain.engines.base import AVERAGE, WEIGHT, Engine
from vaetrain.engines.config import OptimizerConfig
from vaetrain.engines.engine_files import default_processes, engine_file, engine_names
from vaetrain.engines.optimizers import MOMENTS, build_optimizer
from vaetrain.engines.spec import ENGINES, running_launch
from vaetrain.engines.start import start_engine
from vaetrain.model.config import ModelConfig
from vaetrain.model.vae import VAE, draw_noise

ROOT = Path(__file__).resolve().parents[1]
COMPARED = [name for name in engine_names() if ENGINES[name].has_process_group]
SIDE = 64
MARKER = "engine memory: "  # starts the line in which a rank prints its result
WITHIN = 0.05  # of theory
KINDS, ALL = ("weights", REST, "moments", "average"), "all of them"


def measured(engine: Engine) -> dict[str, int]:
    """Return the bytes of all live tensors by kind."""
    parameters = list(engine.module.parameters())
    weights = parameters + engine.slices(WEIGHT)
    weights += [parameter.ds_tensor for parameter in parameters if hasattr(parameter, "ds_tensor")]
    # A gradient becomes a Python object, which live_storages() finds, only when `.grad` is read.
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    known = {
        "weights": storage_bytes(weights),
        "moments": storage_bytes([piece for kind in MOMENTS for piece in engine.slices(kind)]),
        "average": storage_bytes(engine.slices(AVERAGE)),
    }
    rest = live_storages() | storage_bytes(gradients)
    for storages in known.values():
        rest = {pointer: size for pointer, size in rest.items() if pointer not in storages}
    return {kind: sum(storages.values()) for kind, storages in (known | {REST: rest}).items()}


def run_rank(size: str) -> NoReturn:
    """Run one rank: train, print the main process's memory as JSON, and end the process."""
    engine = start_engine(running_launch(os.environ), "no")
    torch.manual_seed(0)
    model = VAE(ModelConfig(size=size, start="random"), SIDE, SIDE).to(engine.device)
    memory = {"parameters": sum(parameter.numel() for parameter in model.parameters())}
    memory["ranks"] = engine.world_size
    optimizer = build_optimizer(model, OptimizerConfig())
    engine.prepare(model, optimizer, micro_batch=1, accumulation=1, clip_norm=1.0)
    engine.keep_average()
    del model, optimizer
    backward(engine)
    engine.step(1e-4)
    backward(engine)
    memory |= measured(engine)
    if engine.device.type == "cuda":
        memory["peak"] = torch.cuda.max_memory_allocated()
    engine.log(MARKER + json.dumps(memory))
    engine.shut_down(0)


def backward(engine: Engine) -> None:
    """Run the forward and backward pass of one page."""
    ids = torch.tensor([engine.rank], device=engine.device)
    images = torch.rand(1, 1, SIDE, SIDE, device=engine.device)
    noise = draw_noise(engine.module, sample_keys(0, ids, ids, "eps"), (SIDE, SIDE), 1.0, 0.0)
    with engine.micro_batch(last=True):
        output = engine.model(images, torch.full_like(ids, SIDE), noise, None)
        losses = (output.reconstruction - images).square().mean((1, 2, 3))
        penalty = output.mu.square().mean(1) + output.logvar.mean(1)
        engine.backward(losses + penalty, engine.world_size)


def launch_command(
    engine: str, size: str, device: torch.device
) -> tuple[list[str], dict[str, str]]:
    """Return the command that starts the ranks of an engine, and its environment.

    The number of ranks is that of a training: NCCL refuses two ranks on one GPU.
    """
    environment = dict(os.environ)
    if device.type == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    ranks = default_processes(ENGINES[engine], environment)
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    command += ["--config_file", str(engine_file(engine)), "--num_processes", str(ranks)]
    return [*command, __file__, "--measure", size], environment


def launch(engine: str, size: str, device: torch.device) -> dict[str, float]:
    """Start the ranks of an engine, and return the memory of the main process by kind."""
    command, environment = launch_command(engine, size, device)
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(MARKER)]
    return json.loads(line.removeprefix(MARKER))


def beside_theory(engine: str, memory: dict[str, float]) -> list[dict[str, Any]]:
    """Return the results of a rank's memory and of its theory, by kind and in total."""
    theory = predicted_state(engine, memory["parameters"], memory["ranks"])
    entries = []
    for kind in (*KINDS, ALL):
        kinds = KINDS if kind == ALL else (kind,)
        notes = None
        if kind == ALL and "peak" in memory:
            notes = {"MB at the allocator's peak": round(memory["peak"] / 1e6)}
        for name, by_kind in ((engine, memory), (in_theory(engine), theory)):
            megabytes = sum(by_kind[each] for each in kinds) / 1e6
            entries.append(
                report.result(kind, name, "MB a rank", [megabytes], notes, better="lower")
            )
            notes = None
    return entries


def in_theory(engine: str) -> str:
    """Return the name of an engine's theory in the record."""
    return f"{engine}, theory"


def main() -> int:
    """Run the command and return the exit status."""
    parser = harness.parser("engine_memory", __doc__)
    parser.add_argument(
        "--engines", nargs="+", choices=COMPARED, default=COMPARED, help="default: all"
    )
    parser.add_argument("--measure", metavar="SIZE", help="internal: run one rank of a model size")
    arguments = parser.parse_args()
    if arguments.measure:
        run_rank(arguments.measure)
    size, results = "tiny" if arguments.quick else "large", []
    for engine in cli.progress(arguments.engines, unit="engine"):
        memory = launch(engine, size, arguments.device)
        results += beside_theory(engine, memory)
    record = report.record(
        "engine_memory",
        quick=arguments.quick,
        settings={
            "seed": arguments.seed,
            "rounds": 1,
            "warmup": 1,
            "device": str(arguments.device),
            "ranks": memory["ranks"],
            "model.size": size,
            "parameters": memory["parameters"],
        },
        packages=["accelerate", "deepspeed"],
        results=results,
        comparisons=[
            report.compare(results, kind, engine, in_theory(engine), None, within=WITHIN)
            for kind in (*KINDS, ALL)
            for engine in arguments.engines
        ],
    )
    report.publish(record, arguments.out)
    return 0


if __name__ == "__main__":
    cli.run("benchmarks.engine_memory", main)
