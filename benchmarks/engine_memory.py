"""What a rank holds of a large model under each engine, beside what theory says.

    python -m benchmarks.engine_memory [--quick] [--out DIR] [--engines NAME...]

Starts each engine's file with two ranks, trains two steps on one small random page a rank, and
counts the bytes of all tensors that are alive: after the second step's backward pass, when
everything is there at once, and before it, when the gradients are not. On a GPU the allocator's
peak is told too.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

if __name__ == "__main__" and __package__ is None:  # as ranks run it
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor, nn

from benchmarks.harness import parser
from shards.randomness import sample_keys
from vaetrain.config import ModelConfig, OptimizerConfig
from vaetrain.engine import AVERAGE, Engine, start_engine
from vaetrain.model import VAE, draw
from vaetrain.optimizers import MOMENTS, build_optimizer
from vaetrain.startup import running_launch

ROOT = Path(__file__).resolve().parents[1]
ENGINES = ("ddp", "zero1", "zero2", "zero3", "zero3_offload", "fsdp2")
RANKS, SIDE, FOUND = 2, 64, "found "
KINDS = ("weights", "gradients", "moments", "average")


def predicted(engine: str, parameters: int) -> dict[str, float]:
    """Bytes a rank holds in theory, all fp32, of which an engine cuts what it cuts.

    Rajbhandari et al. 2020, section 5 and figure 1, for fp32 training: 4 bytes each of weight,
    gradient and average, and 8 of moments. ZeRO-1 and 2 keep the whole weights for the forward
    pass, and beside them their share of fp32 weights to optimise.
    """
    stage = {"ddp": 0, "fsdp2": 3}.get(engine) or int(engine.removeprefix("zero")[:1] or 0)
    whole, share = 4.0 * parameters, 4.0 * parameters / RANKS
    weights = (whole, whole + share, whole + share, share)[stage]
    return {
        "weights": weights,
        "gradients": share if stage >= 2 else whole,
        "moments": 2 * (share if stage >= 1 else whole),
        "average": share if stage >= 1 else whole,
    }


def bytes_of(tensors: list[Tensor]) -> dict[int, int]:
    """Storages and their sizes, each once however many tensors share it."""
    plain = [t.to_local() if hasattr(t, "to_local") else t for t in tensors]
    storages = (tensor.untyped_storage() for tensor in plain if tensor.device.type != "meta")
    return {storage.data_ptr(): storage.nbytes() for storage in storages}


def alive() -> dict[int, int]:
    """The storages of every tensor that Python can reach."""
    gc.collect()
    return bytes_of([found for found in gc.get_objects() if type(found) in PLAIN])


PLAIN = (Tensor, nn.Parameter)


def measure(size: str) -> None:
    """One rank's part: train two steps, and let the main process tell what it held."""
    engine = start_engine(running_launch(os.environ), "no")
    torch.manual_seed(0)
    model = VAE(ModelConfig(size=size, start="random"), SIDE, SIDE).to(engine.device)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    optimizer = build_optimizer(model, OptimizerConfig())
    engine.prepare(model, optimizer, micro_batch=1, accumulation=1, clip_norm=1.0)
    engine.keep_average()
    del model, optimizer
    step(engine)
    before = alive()
    backward(engine)
    now = alive()
    states = {kind: bytes_of(engine.slices(kind)) for kind in (*MOMENTS, AVERAGE)}
    moments = {pointer: size for kind in MOMENTS for pointer, size in states[kind].items()}
    known = moments | states[AVERAGE]
    found = {
        "parameters": parameters,
        "weights": sum(size for pointer, size in before.items() if pointer not in known),
        "gradients": sum(now.values()) - sum(before.values()),
        "moments": sum(moments.values()),
        "average": sum(states[AVERAGE].values()),
    }
    if engine.device.type == "cuda":
        found["peak"] = torch.cuda.max_memory_allocated()
    engine.say(FOUND + json.dumps(found))
    engine.leave(0)


def backward(engine: Engine) -> None:
    """The forward and backward of one page."""
    ids = torch.tensor([engine.rank], device=engine.device)
    images = torch.rand(1, 1, SIDE, SIDE, device=engine.device)
    draws = draw(engine.module, sample_keys(0, ids, ids, "eps"), (SIDE, SIDE), 1.0, 0.0)
    with engine.micro_batch(last=True):
        output = engine.model(images, torch.full_like(ids, SIDE), draws, None)
        losses = (output.reconstruction - images).square().mean((1, 2, 3))
        engine.backward(losses + output.mu.square().mean(1) + output.logvar.mean(1), RANKS)


def step(engine: Engine) -> None:
    """A whole step, after which gradients are gone."""
    backward(engine)
    engine.step(1e-4)


def launch(engine: str, size: str) -> dict[str, float]:
    """What a rank of an engine held."""
    start = [str(Path(sys.executable).with_name("accelerate")), "launch", "--config_file"]
    command = [*start, f"accelerate_configs/{engine}.yaml", __file__, "--measure", size]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(FOUND)]
    return json.loads(line.removeprefix(FOUND))


def main() -> None:
    """Run the command."""
    made = parser("engine_memory", __doc__)
    made.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    made.add_argument("--measure", metavar="SIZE", help="a rank's own part; used by this command")
    arguments = made.parse_args()
    if arguments.measure:
        measure(arguments.measure)
    results = {}
    print("| engine | " + " | ".join(f"{kind}, MB" for kind in KINDS) + " | sum, MB |")
    print("|" + "---|" * (len(KINDS) + 2))
    for engine in arguments.engines:
        found = launch(engine, "tiny" if arguments.quick else "large")
        theory = predicted(engine, found["parameters"])
        results[engine] = {"measured": found, "predicted": theory}
        pairs = [(found[kind], theory[kind]) for kind in KINDS]
        pairs.append((sum(a for a, _ in pairs), sum(b for _, b in pairs)))
        cells = " | ".join(f"{a / 1e6:.0f} ({b / 1e6:.0f})" for a, b in pairs)
        print(f"| {engine} x{RANKS} | {cells} |", flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "engine_memory.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
