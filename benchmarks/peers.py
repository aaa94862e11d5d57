"""Images per second of training, compared with other trainers and plain scripts.

    python -m benchmarks.peers --out runs/benchmarks

All train on pages of the built-in sample, from disk to the optimizer step, with the default
experiment's model and losses and the same augmentation, each in its own process. A round is one
epoch of each. Writes peers.json and peers.png.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.support import harness, report
from benchmarks.support.harness import Case
from benchmarks.support.other_trainers import augmentation
from benchmarks.support.other_trainers.input_pipelines import PageFiles
from benchmarks.support.other_trainers.peer import Peer, PeerProcess, Task, peer_process
from benchmarks.support.other_trainers.training import PEERS
from benchmarks.support.sample_pages import ShardBatches, build_shards, sample_lines, write_pictures
from benchmarks.support.trainer_tasks import Steps
from shards import cli
from shards.reading.datasets import EvaluationDataset
from vaetrain.augmentation.policy import write_policy
from vaetrain.config.command import Command, experiment_path
from vaetrain.config.experiment import load_experiment
from vaetrain.engines.spec import running_launch
from vaetrain.engines.start import start_engine
from vaetrain.model.vae import draw_noise
from vaetrain.training.build import Run

OURS, GROUP = "ours", "default experiment, 128 px"
TARGETS = {name: 1.5 if name.startswith("plain script") else 1.0 for name in PEERS}
WORKERS = 1  # reader processes of every trainer
PACKAGES = ("torchvision", "pillow", "accelerate", "pytorch-msssim", "pythae", "diffusers")


@dataclass(frozen=True)
class Sizes:
    """Pages of an epoch, a multiple of the batch; counted rounds; warm-up rounds."""

    pages: int
    rounds: int
    warmup: int


FULL = Sizes(pages=96, rounds=5, warmup=1)
QUICK = Sizes(pages=32, rounds=2, warmup=1)


def main() -> int:
    """Run the command and return the exit status."""
    arguments = harness.parser("peers", __doc__).parse_args()
    record = measure(arguments.quick, arguments.device, arguments.seed)
    report.publish(record, arguments.out)
    return 0


def measure(quick: bool, device: torch.device, seed: int) -> dict[str, Any]:
    """Run the whole benchmark and return its record."""
    sizes = QUICK if quick else FULL
    timing = {"rounds": sizes.rounds, "warmup": sizes.warmup, "device": device, "seed": seed}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        trainer = stack.enter_context(contextlib.closing(start_trainer(folder, sizes.pages, seed)))
        task = make_task(trainer.run, folder, device, seed)
        peers, missing = start_peers(task, stack)
        peers = {OURS: our_peer(trainer, sizes.pages), **peers}
        cases = [Case(name, peer.epoch) for name, peer in peers.items()]
        rates = harness.interleave(cases, **timing)
        # After the epochs: a library may change the number while it trains.
        threads = {name: peer.threads() for name, peer in peers.items()}
        canvas, gflops = count_flops(peers, task)
    notes = {
        name: {
            "GFLOP a page": round(gflops[name], 2),
            "of ours on one canvas": round(canvas[name], 2),
        }
        for name in peers
    }
    results, comparisons = measured_entries(rates, notes, threads if device.type == "cpu" else {})
    settings = timing | {"device": str(device), "batch": task.pages.batch_size}
    return report.record(
        "peers",
        quick=quick,
        settings=settings | {"workers": WORKERS, **asdict(sizes)},
        packages=PACKAGES,
        results=results,
        comparisons=comparisons,
        missing=missing,
    )


def measured_entries(
    rates: Mapping[str, Sequence[float]],
    notes: Mapping[str, dict[str, Any]],
    threads: Mapping[str, int],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return results and comparisons of the measured rates.

    Args:
        rates: images per second of every round by name.
        threads: CPU threads by name; empty on a GPU.
    """
    results = [
        report.result(GROUP, name, "images/s", rates[name], notes[name], threads=threads.get(name))
        for name in rates
    ]
    comparisons = [
        report.compare(results, GROUP, OURS, name, TARGETS[name]) for name in rates if name != OURS
    ]
    return results, comparisons


def start_trainer(folder: Path, pages: int, seed: int) -> Steps:
    """Start our trainer on `pages` pages, evenly spaced in the sample; `folder` gets its files."""
    policy, lines = folder / "policy.yaml", sample_lines()
    some = [lines[number * len(lines) // pages] for number in range(pages)]
    shards = build_shards(some, folder / "some")
    write_policy(policy, augmentation.POLICY, "the augmentation of all peers")
    settings = [
        f"data.shards={shards}",
        f"data.workers={WORKERS}",
        "data.val_templates=[]",
        "model.start=random",
        f"augment.policy={policy}",
        f"train.seed={seed}",
    ]
    launch = running_launch(os.environ)
    experiment = load_experiment(experiment_path("default"), settings)
    return Steps(Command(experiment, folder / "run", launch), start_engine(launch))


def our_peer(trainer: Steps, pages: int) -> Peer:
    """Return our trainer as a peer."""
    engine, rows = trainer.engine, Counter[int]()

    def epoch() -> int:
        counts = trainer.train(pages // trainer.run.batching.global_batch)
        for (count, height, _), batches in counts["sizes"].items():
            rows[height] += count * batches
        return counts["images"]

    def forward(images: Tensor, heights: Tensor) -> Tensor:
        noise = draw_noise(
            engine.module, torch.zeros_like(heights), tuple(images.shape[2:]), 1.0, 0.0
        )
        return engine.model(images, heights, noise).reconstruction

    return Peer(epoch, forward, rows)


def make_task(run: Run, folder: Path, device: torch.device, seed: int) -> Task:
    """Write the trainer's pages as PNGs, and return them with its experiment."""
    data, size = run.data, run.batching.global_batch
    by_height = EvaluationDataset(data.train, data.collator).ids
    cuts = range(size, len(by_height), size)
    batches = ShardBatches(data.collator, np.split(by_height, cuts))
    pages = PageFiles(write_pictures(batches.one_pass(), folder / "pictures"), size, data.ladder)
    heights = data.train.heights_at(by_height)  # training pages come first in an index
    return Task(pages, heights, run.experiment, device, WORKERS, folder / "peers", seed)


def start_peers(
    task: Task, stack: contextlib.ExitStack
) -> tuple[dict[str, PeerProcess], list[dict[str, str]]]:
    """Start the installed peers until the stack is closed; return the others with the reason."""
    peers, missing = {}, []
    for name in PEERS:
        try:
            peers[name] = stack.enter_context(peer_process(PEERS[name], task))
        except ImportError as error:
            missing.append({"group": GROUP, "name": name, "reason": str(error)})
    return peers, missing


def count_flops(
    peers: Mapping[str, Peer | PeerProcess], task: Task
) -> tuple[dict[str, float], dict[str, float]]:
    """Return FLOPs of a full canvas relative to ours, and GFLOP a page as trained, by name.

    They are of the model's forward and backward pass, without losses, optimizer and augmentation.
    """
    width, device = task.experiment.data.width, task.device
    canvas, gflops = {}, {}
    for name, peer in peers.items():
        canvas[name] = peer.flops(task.rows, width, device)
        total = sum(peer.flops(rows, width, device) * pages for rows, pages in peer.rows.items())
        gflops[name] = total / sum(peer.rows.values()) / 1e9
    return {name: flops / canvas[OURS] for name, flops in canvas.items()}, gflops


if __name__ == "__main__":
    cli.run("benchmarks.peers", main)
