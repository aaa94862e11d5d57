"""What a rank holds of a large model under each engine, beside what theory says.

    python -m benchmarks.engine_memory [--quick] [--out DIR] [--engines NAME...]

Starts each engine's file with two ranks, trains two steps on one small random page a rank, and
counts the bytes of all tensors that are alive after the second step's backward pass, when
everything is there at once. On a GPU the allocator's peak is told too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.support.memory import live_storages, storage_bytes

if __name__ == "__main__" and __package__ is None:  # as ranks run it
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from benchmarks.support import report
from benchmarks.support.harness import parser
from shards import cli
from shards.randomness import sample_keys
from vaetrain.engines.base import AVERAGE, WEIGHT, Engine
from vaetrain.engines.config import OptimizerConfig
from vaetrain.engines.engine_files import engine_file, engine_names
from vaetrain.engines.factory import start_engine
from vaetrain.engines.optimizers import MOMENTS, build_optimizer
from vaetrain.engines.spec import ENGINES, running_launch
from vaetrain.model.config import ModelConfig
from vaetrain.model.vae import VAE, draw_noise

ROOT = Path(__file__).resolve().parents[1]
COMPARED = [name for name in engine_names() if ENGINES[name].has_process_group]
RANKS, SIDE, FOUND = 2, 64, "found "
WITHIN = 0.05  # of theory
REST = "gradients and buffers"
KINDS, ALL = ("weights", REST, "moments", "average"), "all of them"


def predicted(engine: str, parameters: int) -> dict[str, float]:
    """Bytes a rank holds in theory, all fp32, of which an engine cuts what it cuts.

    Rajbhandari et al. 2020, section 5 and figure 1, for fp32 training: 4 bytes each of weight,
    gradient and average, and 8 of moments. ZeRO keeps the share of the weights that it optimises
    beside those of the forward pass, which are fp32 here, too. Buffers are not in it.
    """
    spec = ENGINES[engine]
    stage = spec.stage
    whole, share = 4.0 * parameters, 4.0 * parameters / RANKS
    return {
        "weights": (share if stage == 3 else whole) + (share if spec.separate_masters else 0),
        REST: share if stage >= 2 else whole,
        "moments": 2 * (share if stage >= 1 else whole),
        "average": share if stage >= 1 else whole,
    }


def held(engine: Engine) -> dict[str, int]:
    """Bytes of all tensors that are alive, by what they are for."""
    parameters = list(engine.module.parameters())
    weights = parameters + engine.slices(WEIGHT)
    weights += [parameter.ds_tensor for parameter in parameters if hasattr(parameter, "ds_tensor")]
    # Python knows a gradient only once it was asked for.
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


def measure(size: str) -> None:
    """One rank's part: train two steps, and let the main process tell what it held."""
    engine = start_engine(running_launch(os.environ), "no")
    torch.manual_seed(0)
    model = VAE(ModelConfig(size=size, start="random"), SIDE, SIDE).to(engine.device)
    found = {"parameters": sum(parameter.numel() for parameter in model.parameters())}
    optimizer = build_optimizer(model, OptimizerConfig())
    engine.prepare(model, optimizer, micro_batch=1, accumulation=1, clip_norm=1.0)
    engine.keep_average()
    del model, optimizer
    backward(engine)
    engine.step(1e-4)
    backward(engine)
    found |= held(engine)
    if engine.device.type == "cuda":
        found["peak"] = torch.cuda.max_memory_allocated()
    engine.log(FOUND + json.dumps(found))
    engine.shut_down(0)


def backward(engine: Engine) -> None:
    """The forward and backward of one page."""
    ids = torch.tensor([engine.rank], device=engine.device)
    images = torch.rand(1, 1, SIDE, SIDE, device=engine.device)
    noise = draw_noise(engine.module, sample_keys(0, ids, ids, "eps"), (SIDE, SIDE), 1.0, 0.0)
    with engine.micro_batch(last=True):
        output = engine.model(images, torch.full_like(ids, SIDE), noise, None)
        losses = (output.reconstruction - images).square().mean((1, 2, 3))
        engine.backward(losses + output.mu.square().mean(1) + output.logvar.mean(1), RANKS)


def launch(engine: str, size: str, device: torch.device) -> dict[str, float]:
    """What a rank of an engine held."""
    start = [str(Path(sys.executable).with_name("accelerate")), "launch", "--config_file"]
    parts = [*start, str(engine_file(engine)), __file__, "--measure", size]
    without_gpu = {"CUDA_VISIBLE_DEVICES": ""} if device.type == "cpu" else {}
    environment = os.environ | without_gpu
    done = subprocess.run(
        parts, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(FOUND)]
    return json.loads(line.removeprefix(FOUND))


def beside_theory(engine: str, found: dict[str, float]) -> list[dict[str, Any]]:
    """The report's entries of what a rank held of each kind and in all, and of what it should."""
    theory = predicted(engine, found["parameters"])
    entries = []
    for kind in (*KINDS, ALL):
        kinds = KINDS if kind == ALL else (kind,)
        notes = None
        if kind == ALL and "peak" in found:
            notes = {"MB at the allocator's peak": round(found["peak"] / 1e6)}
        for name, told in ((engine, found), (in_theory(engine), theory)):
            megabytes = sum(told[each] for each in kinds) / 1e6
            entries.append(
                report.result(kind, name, "MB a rank", [megabytes], notes, better="lower")
            )
            notes = None
    return entries


def in_theory(engine: str) -> str:
    """The name of an engine's prediction in the report."""
    return f"{engine}, theory"


def main() -> int:
    """Run the command."""
    made = parser("engine_memory", __doc__)
    made.add_argument("--engines", nargs="+", choices=COMPARED, default=COMPARED)
    made.add_argument("--measure", metavar="SIZE", help="a rank's own part; used by this command")
    arguments = made.parse_args()
    if arguments.measure:
        measure(arguments.measure)
    size, results = "tiny" if arguments.quick else "large", []
    for engine in cli.progress(arguments.engines, unit="engine"):
        found = launch(engine, size, arguments.device)
        results += beside_theory(engine, found)
    told = report.record(
        "engine_memory",
        quick=arguments.quick,
        settings={
            "seed": arguments.seed,
            "rounds": 1,
            "warmup": 1,
            "device": str(arguments.device),
            "ranks": RANKS,
            "model.size": size,
            "parameters": found["parameters"],
        },
        packages=["accelerate", "deepspeed"],
        results=results,
        comparisons=[
            report.compare(results, kind, engine, in_theory(engine), None, within=WITHIN)
            for kind in (*KINDS, ALL)
            for engine in arguments.engines
        ],
    )
    report.publish(told, arguments.out)
    return 0


if __name__ == "__main__":
    cli.run("benchmarks.engine_memory", main)
