"""All numbers of a plan, computed from its inputs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.support.scaling_model import hidden_share, step_collectives, step_seconds
from launch.planning.figures import ASSUMED, COMPUTED, COUNTED, MEASURED, SET, Figure
from launch.planning.inputs import PEAKS, Cluster, ModelSizes, Pages, Rate
from launch.planning.memory import GIB, engine_memory, largest_micro_batch, peak
from launch.planning.traffic import Traffic
from shards.reading.partitioned_order import build_order, most_read
from shards.reading.sample_order import SampleOrder
from shards.reading.selection import Selection
from vaetrain.config.experiment import Experiment
from vaetrain.data.batching import Batching
from vaetrain.engines.spec import EngineSpec
from vaetrain.settings import ConfigError

RECOMPUTED = 4 / 3  # work of a step that computes activations twice
SAVED = 16  # bytes of a parameter in a checkpoint: weight, EMA and two moments in fp32


@dataclass(frozen=True)
class PlanInputs:
    """Inputs of a plan.

    Attributes:
        experiment: with the values for a GPU, see `on_gpu`.
        copy_size: number of ranks over which a copy of the model is divided, see `copy_size_of`.
        rate: measured rate of a GPU; None: it is computed from the assumed rates of the cluster.
    """

    experiment: Experiment
    spec: EngineSpec
    cluster: Cluster
    pages: Pages
    model: ModelSizes
    copy_size: int
    rate: Rate | None


@dataclass(frozen=True)
class Plan:
    """A plan.

    Attributes:
        problems: reasons why the run as it is set cannot start, or does not fit; one line each.
    """

    figures: list[Figure]
    problems: list[str]


@dataclass(frozen=True)
class Step:
    """Seconds of an optimizer step, and the FLOPs of a page in training and in a validation."""

    seconds: float
    computing: float
    flops: tuple[float, float]


def make_plan(inputs: PlanInputs) -> Plan:
    """Return the plan of a run.

    If the global batch cannot be divided over the ranks, the nearest that can be is planned.

    Raises ConfigError for an engine that does not work with this number of ranks, or a micro batch
    that does not divide a rank's pages.
    """
    spec, ranks = inputs.spec, inputs.cluster.ranks
    if not spec.allows(ranks):
        raise ConfigError(
            f"--nodes, --gpus: are {ranks} ranks, but {spec.name} works with "
            f"{spec.max_processes}; use another engine"
        )
    if spec.hybrid and inputs.copy_size == 1 < ranks:
        raise ConfigError(
            f"--gpus: is 1, and {spec.name} divides a copy of the model over the ranks of a node; "
            "use ddp or fsdp2"
        )
    experiment, problems = divisible(inputs.experiment, ranks)
    inputs = dataclasses.replace(inputs, experiment=experiment)
    batching = experiment.batching(ranks)
    memory, largest, fits = _memory(inputs, batching)
    if not fits:
        problems.append(_remedy(inputs, batching, largest))
    step_figures, step = _step(inputs, batching)
    figures = [
        *_batch(inputs, batching),
        *memory,
        *step_figures,
        *_data(inputs, batching, step),
        *_rest(inputs, batching, step),
    ]
    return Plan(figures, problems)


def divisible(experiment: Experiment, ranks: int) -> tuple[Experiment, list[str]]:
    """Return the experiment with a global batch that can be divided over the ranks.

    Returns: the experiment itself and no problem, or the nearest one and the trainer's message.
    """
    total = experiment.train.global_batch_size
    if total % ranks == 0:
        return experiment, []
    nearest = max(1, round(total / ranks)) * ranks
    try:
        experiment.batching(ranks)
    except ConfigError as error:
        problem = f"{error}; all numbers are for train.global_batch_size={nearest}"
    train = dataclasses.replace(experiment.train, global_batch_size=nearest)
    return dataclasses.replace(experiment, train=train), [problem]


def _batch(inputs: PlanInputs, batching: Batching) -> list[Figure]:
    row = partial(Figure, "batch")
    micro = "default: largest power of two that divides a rank's pages, at most 32"
    if inputs.experiment.train.micro_batch_size is not None:
        micro = "train.micro_batch_size"
    is_set = "train.global_batch_size"
    return [
        row("ranks", inputs.cluster.ranks, "", SET, "--nodes x --gpus"),
        row("global batch", batching.global_batch, "pages", SET, is_set),
        row("micro batch", batching.micro_batch, "pages", COUNTED, micro),
        row(
            *("accumulation", batching.accumulation, "", COUNTED),
            "global batch / (ranks x micro batch)",
        ),
    ]


def _memory(inputs: PlanInputs, batching: Batching) -> tuple[list[Figure], int, bool]:
    """Return the figures, the largest micro batch that fits, and whether the run's fits."""
    spec, cluster, model = inputs.spec, inputs.cluster, inputs.model
    is_each = inputs.experiment.engine.reduces_each(offload=spec.offload)
    keeps_gradients = batching.accumulation > 1 and not is_each
    state = engine_memory(spec, model, inputs.copy_size, keeps_gradients=keeps_gradients)
    largest = largest_micro_batch(model, state, cluster)
    at_peak = peak(model, state, batching.micro_batch)
    available = (1 - cluster.free_share) * cluster.gpu_memory * GIB
    fits = batching.micro_batch <= largest
    row = partial(Figure, "memory of a GPU")
    tallest = "fake tensors of a step of the tallest pages; not compared with a GPU"
    figures = [
        row("parameters", model.weights.parameters, "", COUNTED, "model without data"),
        row("state", state.device, "B", COUNTED, f"weights, gradients, moments, EMA ({spec.name})"),
        row(
            "gathered, and buffers", state.gathered, "B", COUNTED, "units and buckets, an estimate"
        ),
        row("activations", at_peak - state.device - state.gathered, "B", COUNTED, tallest),
        row("peak", at_peak, "B", COMPUTED, "sum of the three"),
        row("available", available, "B", ASSUMED, _flags(cluster, "gpu_memory", "free_share")),
        row("fits", "yes" if fits else "no", "", COMPUTED, "peak and available"),
        row("largest micro batch", largest, "pages", COMPUTED, "the same, for other micro batches"),
        row("host memory of a rank", state.host, "B", COUNTED, "offloaded state"),
    ]
    return figures, largest, fits


def _remedy(inputs: PlanInputs, batching: Batching, largest: int) -> str:
    """Return the line about a micro batch that does not fit, and what to do."""
    share = batching.micro_batch * batching.accumulation
    is_paired = inputs.experiment.augment.mixup_alpha > 0
    sizes = [n for n in range(1, largest + 1) if share % n == 0 and not (is_paired and n % 2)]
    remedy = "use train.checkpoint_activations=true, an engine that divides more, or larger GPUs"
    if sizes:
        remedy = f"set train.micro_batch_size={sizes[-1]}"
    return (
        f"memory: a micro batch of {batching.micro_batch} does not fit into "
        f"{inputs.cluster.gpu_memory:g} GiB, of which {inputs.cluster.free_share:.0%} stay free; "
        f"{remedy}"
    )


def _step(inputs: PlanInputs, batching: Batching) -> tuple[list[Figure], Step]:
    cluster, spec, model = inputs.cluster, inputs.spec, inputs.model
    train = inputs.experiment.train
    flops = model.flops(inputs.pages.rows)
    share = batching.global_batch / cluster.ranks
    row = partial(Figure, "step")
    shown = f"convolutions and products of {inputs.pages.rows:.0f} rows, the mean"
    figures = [row("FLOPs of a page", flops[0], "FLOP", COUNTED, shown)]
    if inputs.rate is not None:
        rate = inputs.rate.images_per_second
        computing = share / rate
        figures.append(row("images/s of a GPU", rate, "", MEASURED, inputs.rate.source))
        figures.append(row("computing", computing, "s", COMPUTED, "pages of a rank / images/s"))
    else:
        launches = model.launches(batching.accumulation)
        name = "tf32" if train.precision == "no" and train.tf32 else train.precision
        teraflops = cluster.gpu_tflops or PEAKS[name]
        work = flops[0] * (RECOMPUTED if train.checkpoint_activations else 1)
        rate = teraflops * 1e12 * cluster.utilisation / work
        starting = launches * cluster.launch_us * 1e-6
        computing = max(share / rate, starting)
        which = f"H100 in {name}" if cluster.gpu_tflops is None else "set"
        assumed = f"{teraflops:g} TFLOP/s ({which}: --gpu-tflops)"
        assumed += f" x {_flags(cluster, 'utilisation')} / FLOPs"
        reason = "pages of a rank / images/s, at least the starts of operations"
        figures += [
            row("images/s of a GPU", rate, "", ASSUMED, assumed),
            row("operations", launches, "", COUNTED, "fake tensors; without torch.compile"),
            row("starts of operations", starting, "s", ASSUMED, _flags(cluster, "launch_us")),
            row("computing", computing, "s", COMPUTED, reason),
        ]
    config = inputs.experiment.engine
    collectives = step_collectives(spec, model.weights, batching.accumulation, config)
    for each in collectives:
        what = f"{each.kind} of {each.tensors}"
        dtype = config.reduce_dtype if each.tensors == "gradients" else "fp32"
        where = ", between copies of the model" if each.between_copies else ""
        figures.append(row(what, each.bytes, "B", COUNTED, f"{dtype}, {spec.name}{where}"))
    traffic = Traffic.of(collectives, cluster, inputs.copy_size)
    sending = traffic.seconds
    hidden, overlapped = _overlap(spec, 4.0 * model.weights.parameters, batching.accumulation)
    seconds = step_seconds([computing], cluster.ranks, sending, hidden, overlapped)
    algorithm = "2 (N - 1) / N of an all-reduce, (N - 1) / N of the others; N"
    links = _flags(cluster, "gpu_link_gb", "network_gbit")
    figures += [
        row("sent by a GPU", traffic.sent_by_gpu, "B", COMPUTED, f"{algorithm} ranks"),
        row("sent by a node to others", traffic.sent_by_node, "B", COMPUTED, f"{algorithm} nodes"),
        row("communication by itself", sending, "s", ASSUMED, links),
        row("not hidden", seconds - computing, "s", COMPUTED, "DDP's overlap; none of ZeRO-1, 2"),
        row("step", seconds, "s", COMPUTED, "computing + not hidden; no stragglers, no waiting"),
        row("images/s", batching.global_batch / seconds, "", COMPUTED, "global batch / step"),
    ]
    return figures, Step(seconds, computing, flops)


def _overlap(spec: EngineSpec, gradients: float, accumulation: int) -> tuple[float, float]:
    """Return the share of communication that can be hidden, and of the backward passes that hide.

    DDP communicates in the last micro batch only. DeepSpeed overlaps only under stage 3, by its
    default of `overlap_comm`.
    """
    if spec.stage in (1, 2):
        return 0.0, 1.0
    return hidden_share(gradients), 1.0 if spec.stage == 3 else 1 / accumulation


def _data(inputs: PlanInputs, batching: Batching, step: Step) -> list[Figure]:
    pages, nodes = inputs.pages, inputs.cluster.nodes
    read = batching.global_batch / nodes * pages.page_bytes
    order, share = _share_of_shards(inputs, batching)
    own = pages.train_bytes * share
    row = partial(Figure, "shards")
    figures = [
        row("training pages", pages.train, "", pages.basis, pages.source),
        row("bytes of a page", pages.page_bytes, "B", pages.basis, pages.source),
        row("read from disk, step and node", read, "B", COMPUTED, "pages of a node x bytes"),
        row("read from disk, rate of a node", read / step.seconds, "B/s", COMPUTED, "per step"),
        row(
            *("read by a node in the first epoch", own, "B", COMPUTED),
            f"{share:.3g} of {pages.shards} equal shards: data.partitions={order.partitions}",
        ),
    ]
    if pages.cached is None:
        none = "the shards are not on a server"
        figures.append(row("fetched by a node in an epoch", 0.0, "B", pages.basis, none))
    else:
        when = "until the cache holds all" if pages.cached else "data.cache_gb is less"
        figures.append(row("fetched by a node in an epoch", own, "B", COMPUTED, when))
    return figures


def _share_of_shards(inputs: PlanInputs, batching: Batching) -> tuple[SampleOrder, float]:
    """Return the order of the pages, and the share of the shards that a node reads in an epoch."""
    pages, data, cluster = inputs.pages, inputs.experiment.data, inputs.cluster
    starts = np.unique(np.linspace(0, pages.train, pages.shards + 1).round().astype(np.int64))
    order = build_order(
        Selection(np.zeros(0), range(pages.train), starts, data.width, data.max_height),
        partitions=data.partitions,
        seed=inputs.experiment.train.seed,
        global_batch_size=batching.global_batch,
        window_shards=data.window_shards,
        ladder=np.zeros(0),
    )
    read = most_read(order, np.diff(starts), cluster.ranks, cluster.gpus)
    return order, read / cluster.nodes


def _rest(inputs: PlanInputs, batching: Batching, step: Step) -> list[Figure]:
    """Return the figures of checkpoints, validations and the whole run."""
    train, cluster, pages = inputs.experiment.train, inputs.cluster, inputs.pages
    clock = inputs.experiment.clock(pages.train)
    steps = clock.horizon // batching.global_batch
    size = SAVED * inputs.model.weights.parameters + 2 * inputs.model.buffers
    saves, count = (
        min(steps, -(-clock.horizon // every))  # the last one at the end, at most one a step
        for every in (train.checkpoint_every_images, train.validate_every_images)
    )
    copying = size / cluster.ranks / (cluster.host_gb * 1e9)
    writing = size / cluster.nodes / (cluster.disk_mb * 1e6)
    page = step.computing / (batching.global_batch / cluster.ranks)
    relative = step.flops[1] / step.flops[0]
    model_work = -(-pages.val // cluster.ranks) * page * relative
    once = model_work + cluster.validation_seconds if pages.val else 0.0
    validating = count * once
    total = steps * step.seconds + validating + saves * copying
    save, val, run = (partial(Figure, group) for group in ("checkpoint", "validation", "whole run"))
    end = "train.epochs, train.max_images and the training pages"
    return [
        save("size", size, "B", COUNTED, "weights, EMA, 2 moments in fp32"),
        save("on disk", size * train.keep_checkpoints, "B", COMPUTED, "train.keep_checkpoints"),
        save("standstill", copying, "s", ASSUMED, f"slices to host, {_flags(cluster, 'host_gb')}"),
        save(
            *("written in the background in", writing, "s", ASSUMED),
            f"by all nodes, {_flags(cluster, 'disk_mb')} each",
        ),
        save("checkpoints", saves, "", COUNTED, "train.checkpoint_every_images, and at the end"),
        save("time between", total / saves, "s", COMPUTED, "whole run / checkpoints"),
        val("validation pages", pages.val, "", pages.basis, pages.source),
        val(
            *("model", model_work, "s", COMPUTED),
            f"pages of a rank x {relative:.2g} of a training page's FLOPs",
        ),
        val(
            *("main process", cluster.validation_seconds, "s", ASSUMED),
            f"pictures, metrics; as on a CPU thread: {_flags(cluster, 'validation_seconds')}",
        ),
        val("validations", count, "", COUNTED, "train.validate_every_images, and at the end"),
        val("share of the run", 100 * validating / total, "%", COMPUTED, "of the whole run"),
        run("images", clock.horizon, "", COUNTED, end),
        run("epochs", clock.epochs, "", COUNTED, end),
        run("steps", steps, "", COUNTED, "images / global batch"),
        run("time", total, "s", COMPUTED, "steps, validations, standstills; no start, no restart"),
    ]


def _flags(cluster: Cluster, *names: str) -> str:
    """Return the options that set these attributes, with their values."""
    options = {"free_share": "free-memory-share"}
    return ", ".join(
        f"--{options.get(name, name).replace('_', '-')} {getattr(cluster, name):g}"
        for name in names
    )
