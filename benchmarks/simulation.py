"""Training of 512 ranks in one process: order, reader, cache, heartbeat and checkpoints.

    python -m benchmarks.simulation [--quick] [--out DIR]

Ranks are threads, eight for each node, and run the trainer's own code; only the network is not
real: the object store is a folder whose requests take time and fail, and collectives pass values
between threads. Only a few ranks compute at a time, the others wait for them. The launcher's store
is torch's own, in a process of its own; one loop calls the beats of all ranks. A node's cache is
smaller than the shards that it reads. The model counts how often it has seen each sample.

First, one epoch is read with fixed ranks. Then one is read while the number of ranks changes: one
rank is slow, one is killed while it writes its part of a checkpoint, three quarters of the ranks
resume from the checkpoint before that one, and at last all ranks go on. Every sample must have been
trained on once. The command also computes which share of a checkpoint of 10^9 parameters each rank
writes. Times are no result: all ranks share one processor. Writes simulation.json and
simulation.png.
"""

from __future__ import annotations

import resource
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.support import harness, report
from benchmarks.support.sample_pages import build_shards, sample_lines
from benchmarks.support.simulated_ranks import running_store
from benchmarks.support.simulation import checkpoint_plan
from benchmarks.support.simulation.object_store import ObjectStore, Traffic, write_shards
from benchmarks.support.simulation.ranks import times_trained
from benchmarks.support.simulation.world import Outcome, Plan, World
from shards import cli
from shards.format.index import HEADER_NAME
from shards.open import open_index
from vaetrain.artifacts import checkpoint
from vaetrain.model.registry import SIZES, Size


@dataclass(frozen=True)
class Sizes:
    """Amount of work.

    Attributes:
        ranks, fewer: number of ranks, and after one was killed.
        per_node: ranks of a node.
        shards, pages, last: shards; pages of each one, and of the last one.
        global_batch: pages of a step; both numbers of ranks divide it.
        partitions: of the shards; they divide the global batch.
        cached: shards that fit into the cache of a node.
        save_every: steps between two checkpoints.
        killed_at, fewer_until: steps after which a rank is killed and after which all ranks go on.
        request, slow: seconds of a request to the object store, and of the slow rank's step.
        timeout: of the heartbeat in seconds.
        model: of the planned checkpoint.
    """

    ranks: int
    fewer: int
    per_node: int
    shards: int
    pages: int
    last: int
    global_batch: int
    partitions: int
    cached: int
    save_every: int
    killed_at: int
    fewer_until: int
    request: float
    slow: float
    timeout: float
    model: Size


FULL = Sizes(
    *(512, 384, 8, 1536, 4, 1, 1536, 192, 16, 1, 2, 3, 0.02, 1.0, 120.0),
    model=checkpoint_plan.BILLION,
)
QUICK = Sizes(16, 12, 4, 48, 8, 5, 48, 12, 12, 2, 4, 6, 0.001, 0.2, 4.0, model=SIZES["tiny"])
STRAGGLER, KILLED = 5, 7  # ranks


@dataclass
class Simulated:
    """Results of a simulation.

    Attributes:
        data: bytes of all shards.
        fixed, epoch: outcome and traffic of an epoch with fixed ranks.
        worlds: outcome and traffic of each part of the epoch with changing ranks.
        trained: how often each sample was trained on in the epoch with changing ranks.
    """

    data: int
    fixed: Outcome
    epoch: Traffic
    worlds: list[tuple[int, Outcome, Traffic]]
    trained: np.ndarray


def simulate(sizes: Sizes, folder: Path) -> Simulated:
    """Run both epochs; raises RuntimeError if a sample was lost or repeated."""
    build_shards(sample_lines(), folder / "built")
    pages = folder / "pages"
    write_shards(pages, folder / "built", sizes.shards, sizes.pages, sizes.last)
    sizes_of_shards = [shard.bytes for shard in open_index(pages).shards]
    cache_gb = sizes.cached * max(sizes_of_shards) / 1e9
    objects = ObjectStore(pages, folder / "caches-fixed", sizes.request, fail_every=50)

    def world(ranks: int, name: str) -> World:
        options = {"partitions": sizes.partitions, "cache_gb": cache_gb, "window_shards": 1}
        return World(ranks, sizes.per_node, objects, folder / name, sizes.global_batch, **options)

    samples = (sizes.shards - 1) * sizes.pages + sizes.last
    steps, every = -(-samples // sizes.global_batch), sizes.save_every
    with objects.connected():
        fixed = world(sizes.ranks, "fixed").run(Plan(steps, steps), None, sizes.timeout)
        check_epoch([fixed.steps[step] for step in range(steps)], samples)
        epoch = objects.new_traffic()
        objects.caches = folder / "caches-changing"
        plans = [
            (sizes.ranks, Plan(steps, every, STRAGGLER, sizes.slow, KILLED, sizes.killed_at)),
            (sizes.fewer, Plan(sizes.fewer_until, every)),
            (sizes.ranks, Plan(steps, every)),
        ]
        worlds = []
        for ranks, plan in plans:
            with running_store() as store:
                outcome = world(ranks, "changing").run(plan, store, sizes.timeout)
            worlds.append((ranks, outcome, objects.new_traffic()))
            check_failures(outcome, ranks, plan)
            if plan.killed is not None:
                images = (plan.killed_at - every) * sizes.global_batch
                check_checkpoints(folder / "changing", images)
    applied = worlds[0][1].steps | worlds[1][1].steps | worlds[2][1].steps
    check_epoch([applied[step] for step in range(steps)], samples)
    for step in applied.keys() & fixed.steps.keys():
        require(
            np.array_equal(np.sort(applied[step]), np.sort(fixed.steps[step])),
            f"step {step} depends on the number of ranks",
        )
    newest = checkpoint.load(checkpoint.list_checkpoints(folder / "changing")[-1])
    trained = times_trained(newest)
    wanted = np.bincount(np.concatenate([applied[s] for s in range(steps)]), minlength=samples)
    require(np.array_equal(trained, wanted), "the checkpoint counts other samples than were read")
    return Simulated(sum(sizes_of_shards), fixed, epoch, worlds, trained)


def require(condition: bool, fault: str) -> None:
    """Raise RuntimeError with the fault unless the condition holds."""
    if not condition:
        raise RuntimeError(fault)


def check_epoch(steps: list[np.ndarray], samples: int) -> None:
    """Require that steps have each sample once, and then only samples of the next epoch."""
    ids = np.concatenate(steps)
    counts = np.bincount(ids, minlength=samples)
    more = len(ids) - samples
    is_once = len(counts) == samples and counts.min() == 1 and (counts == 2).sum() == more
    require(bool(is_once and counts.max() <= 2), "a sample was lost or repeated")


def check_failures(outcome: Outcome, ranks: int, plan: Plan) -> None:
    """Require that the heartbeat names the killed rank on all others, and else nothing."""
    wanted = [] if plan.killed is None else [f"rank {plan.killed} "] * (ranks - 1)
    found = [failure[: len(wanted[0])] if wanted else failure for failure in outcome.failures]
    require(found == wanted, f"the heartbeat reports {sorted(set(outcome.failures))[:3]}")


def check_checkpoints(folder: Path, images: int) -> None:
    """Require that the newest checkpoint is that of an image count, and whole, beside a draft."""
    newest = checkpoint.load(checkpoint.list_checkpoints(folder)[-1])
    require(newest.images == images, f"the newest checkpoint is at {newest.images} images")
    require(any(folder.glob(checkpoint.DRAFTS)), "there is no draft of the interrupted save")


def results_of(found: Simulated, sizes: Sizes) -> list[dict[str, Any]]:
    """Return the results of the simulation."""
    results = []

    def add(group: str, name: str, unit: str, value: float) -> None:
        if value > 0:
            results.append(report.result(group, name, unit, [value], better="lower"))

    def add_traffic(name: str, traffic: Traffic, ranks: int) -> None:
        nodes = ranks // sizes.per_node
        kinds = {"needed": traffic.needed, "fetched": traffic.fetched, "hashed": traffic.hashed}
        kinds["fetched again"] = traffic.again
        share = found.data / nodes
        for kind, counts in kinds.items():
            of_node = f"{name}, {kind} by a node"
            mean, most = sum(counts.values()) / nodes, max(counts.values(), default=0)
            add("bytes", f"{of_node}, mean", "x data / nodes", mean / share)
            add("bytes", f"{of_node}, largest", "x data / nodes", most / share)
        mean = sum(traffic.requests.values()) / nodes
        add("requests to the object store", f"{name}, mean", "a node", mean)

    add_traffic(f"epoch of {sizes.ranks} ranks", found.epoch, sizes.ranks)
    memory = found.fixed.memory / sizes.ranks / 1e6
    add("memory", f"{sizes.ranks} ranks", "MB a rank", memory)
    for ranks, outcome, traffic in found.worlds:
        name = f"{ranks} ranks, steps {min(outcome.steps)} to {max(outcome.steps)}"
        add_traffic(name, traffic, ranks)
        for kind, rate in outcome.requests.items():
            add("requests to the launcher's store", f"{name}, {kind}", "a second", rate)
        if outcome.seconds_to_failure is not None:
            first, last = outcome.seconds_to_failure
            add("time until the killed rank is reported", f"{ranks} ranks, first", "s", first)
            add("time until the killed rank is reported", f"{ranks} ranks, last", "s", last)
        add("time that a beat came late, at most", name, "s", outcome.latest)
    return results


def plan_results(sizes: Sizes) -> tuple[list[dict[str, Any]], int]:
    """Return the results of the planned checkpoint, and the number of its parameters."""
    model = checkpoint_plan.large_model(sizes.model)
    results = []
    for name, engine in checkpoint_plan.engines(model, sizes.ranks, sizes.per_node).items():
        share = checkpoint_plan.shares(engine)
        for kind, value in (("mean", share.bytes.mean()), ("largest", share.bytes.max())):
            case = f"{name}, {kind}"
            notes = {"layout_bytes": share.layout, "ranks_without": int((share.bytes == 0).sum())}
            results.append(
                report.result(
                    "checkpoint", case, "MB a rank", [float(value) / 1e6], notes, better="lower"
                )
            )
    return results, sum(parameter.numel() for parameter in model.parameters())


def main() -> int:
    """Run the command and return the exit status."""
    arguments = harness.parser("simulation", __doc__).parse_args()
    sizes = QUICK if arguments.quick else FULL
    planned, parameters = plan_results(sizes)
    # A rank keeps the shards open that it reads.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as name:
        found = simulate(sizes, Path(name))
        header = (Path(name) / "pages" / HEADER_NAME).stat().st_size
    record = report.record(
        "simulation",
        quick=arguments.quick,
        settings={"seed": arguments.seed, "rounds": 1, "warmup": 0, "device": "cpu"}
        | {"threads": 1, "parameters": parameters, "data_bytes": found.data}
        | {"header_bytes": header, **asdict(sizes)},
        packages=("safetensors", "fsspec"),
        results=results_of(found, sizes) + planned,
    )
    report.publish(record, arguments.out)
    once = int((found.trained == 1).sum())
    cli.print_line(
        f"{once} of {len(found.trained)} samples were trained on once, the others, which fill the "
        "last step, twice"
    )
    return 0


if __name__ == "__main__":
    cli.run("benchmarks.simulation", main)
