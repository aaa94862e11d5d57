"""Set-up of a training run: everything that it consists of, built from a command and an engine."""

from __future__ import annotations

import dataclasses
import zlib
from dataclasses import dataclass, field

import torch

from shards.atomic_files import writing
from vaetrain.artifacts import checkpoint, same_run
from vaetrain.artifacts.checkpoint import Checkpoint
from vaetrain.artifacts.checkpoint_writer import CheckpointWriter
from vaetrain.artifacts.final_model import load_encoder
from vaetrain.artifacts.run_dir import RunDir
from vaetrain.augmentation.pipeline import Augment
from vaetrain.augmentation.policy import load_policy
from vaetrain.config.command import Command
from vaetrain.config.experiment import Experiment
from vaetrain.data.batching import Batching
from vaetrain.data.config import SAMPLE_SHARDS
from vaetrain.data.loading import TrainingData, build_sample
from vaetrain.data.widths import read_other_widths
from vaetrain.engines.base import Engine
from vaetrain.engines.device_options import set_arithmetic
from vaetrain.engines.devices import thread_line
from vaetrain.engines.model_options import apply_options
from vaetrain.engines.optimizers import build_optimizer
from vaetrain.evaluation.sample_metrics import SampleMetrics
from vaetrain.losses.objective import Objective
from vaetrain.meters import Meter
from vaetrain.model.vae import VAE
from vaetrain.prior.prior import Prior
from vaetrain.reporting.run_log import Stopwatch
from vaetrain.schedules import Clock
from vaetrain.settings import ConfigError
from vaetrain.training.auto import resolve_auto
from vaetrain.training.pca_start import start_from_pca
from vaetrain.training.saved_weights import build_model, check_weights, distribute_model
from vaetrain.training.state import TrainingState
from vaetrain.training.step import ForwardStep


@dataclass
class Run:
    """Parts of a training run.

    Attributes:
        batching: global batch, micro batch and accumulation steps.
        clock: epochs and due events as functions of the image count.
        forward: from a micro batch to its losses.
        state: what is updated and saved beside the model: EMA, controllers, discriminator.
        meter: means since the last logged line.
        writer: of checkpoints.
        stopwatch: seconds since the last logged line, by phase.
        images: image count now.
        best: metrics of the validation with the lowest L1 so far; empty before the first.
        samples: compares samples with training pages; None before the first validation.
        prior: of the finished model, the same on every rank; None before, or if none is fitted.
    """

    experiment: Experiment
    engine: Engine
    directory: RunDir
    batching: Batching
    data: TrainingData
    clock: Clock
    forward: ForwardStep
    state: TrainingState
    meter: Meter
    writer: CheckpointWriter
    stopwatch: Stopwatch
    images: int = 0
    best: dict[str, float] = field(default_factory=dict)
    samples: SampleMetrics | None = None
    prior: Prior | None = None

    @property
    def objective(self) -> Objective:
        """Losses of a page, in training and validation."""
        return self.forward.objective

    @property
    def is_at_end(self) -> bool:
        """Whether the image count has reached the horizon."""
        return self.images >= self.clock.horizon


def build_run(command: Command, engine: Engine) -> Run:
    """Build a run, or load it from the newest checkpoint of its run directory. Collective.

    Raises UserError in one line where a setting, the data or the checkpoint does not fit.
    """
    experiment, chosen = resolve_device_options(command.experiment, engine)
    train, device = experiment.train, engine.device
    set_arithmetic(device, deterministic=train.deterministic, tf32=train.tf32)
    batching = experiment.batching(engine.world_size)
    log_engine(engine, batching)
    directory = RunDir(command.run_dir)
    engine.on_main(lambda: prepare_disk(directory, experiment))

    engine.mark_progress("building the model")
    saved = find_checkpoint(directory, engine)
    weights = None if saved is None else saved.weights
    shape = (experiment.model, experiment.data.width, experiment.data.max_height)
    torch.manual_seed(train.seed)
    model = build_model(lambda: VAE(*shape), engine, weights)
    with torch.device("meta"):
        skeleton = VAE(*shape)
    apply_options(
        model,
        device,
        precision=engine.precision,
        shards_weights=engine.spec.stage == 3,
        channels_last=train.channels_last,
        checkpoint_activations=train.checkpoint_activations,
        compile=train.compile,
    )
    experiment, data = open_data(experiment, engine, saved)
    for line in (
        data.partitions_line,
        data.validation_warning,
        data.memory_warning(batching.micro_batch),
    ):
        if line:
            engine.log(line)
    clock = experiment.clock(len(data.train))
    augment = Augment(load_policy(experiment.augment, experiment.data.folder))
    if saved is not None:
        with checkpoint.refuse_other_versions():
            same_run.check_same_run(
                saved,
                experiment,
                augment.policy,
                data.fingerprint,
                chosen,
                order=data.order.VERSION,
            )
        check_weights(skeleton, saved.weights, directory.checkpoints)
    elif model.starts_from_pca:
        start_from_pca(model, data, engine)
    distribute_model(
        model,
        build_optimizer(model, experiment.optimizer),
        engine,
        weights,
        micro_batch=batching.micro_batch,
        accumulation=batching.accumulation,
        clip_norm=experiment.optimizer.clip_norm,
        config=experiment.engine,
    )
    stopwatch = Stopwatch()
    forward = ForwardStep(
        experiment,
        model=engine.model,
        vae=engine.module,
        augment=augment,
        objective=Objective(experiment, load_encoder).to(device),
        device=device,
        phase=stopwatch.phase,
    )
    if forward.objective.compares_pages:
        found = read_other_widths(data, data.train)
        engine.log(f"loss.contrastive: {found} of {len(data.train)} pages are known at two widths")
    run = Run(
        experiment=experiment,
        engine=engine,
        directory=directory,
        batching=batching,
        data=data,
        clock=clock,
        forward=forward,
        state=TrainingState(experiment, clock, engine, forward.objective, skeleton),
        meter=Meter(engine, forward.objective.parts),
        writer=CheckpointWriter(engine, directory.checkpoints, train.keep_checkpoints),
        stopwatch=stopwatch,
    )
    if saved is not None:
        with checkpoint.refuse_other_versions():
            resume(run, saved)
    return run


def open_data(
    experiment: Experiment, engine: Engine, saved: Checkpoint | None
) -> tuple[Experiment, TrainingData]:
    """Open the data; return it and the experiment with the number of partitions of its order.

    Unless the experiment gives the number, a run goes on with that of its checkpoint. Raises
    ConfigError.
    """
    train, config = experiment.train, experiment.data
    if saved is not None and config.partitions is None:
        with checkpoint.refuse_other_versions():
            partitions = same_run.saved_partitions(saved)
        # A run with another global batch is refused later, with all settings that differ.
        if train.global_batch_size % partitions == 0:
            config = dataclasses.replace(config, partitions=partitions)
    data = TrainingData(
        config,
        engine,
        VAE.stride,
        seed=train.seed,
        global_batch_size=train.global_batch_size,
    )
    config = dataclasses.replace(config, partitions=data.order.partitions)
    return dataclasses.replace(experiment, data=config), data


def resolve_device_options(
    experiment: Experiment, engine: Engine
) -> tuple[Experiment, dict[str, str | bool]]:
    """Resolve settings with the value `auto`, log the values, and return them. Collective.

    Raises ConfigError for `train.compile` under an engine that cannot run it, or if ranks with
    different devices resolve differently.
    """
    train, chosen = resolve_auto(
        experiment.train, engine.device, compiles=engine.compiles_automatically
    )
    if train.compile and not engine.compiles:
        raise ConfigError(
            f"train.compile: not supported by {engine.name}, which has hooks inside the compiled "
            "blocks; use train.compile=false, or the engine ddp or fsdp2"
        )
    values = (engine.precision == "bf16", train.channels_last, train.compile)
    engine.require_equal(
        sum(bool(value) << bit for bit, value in enumerate(values)),
        "train.precision, train.channels_last, train.compile: auto has different values on "
        "ranks with different devices; set the values",
    )
    for name, value in chosen.items():
        engine.log(f"{name}=auto is {str(value).lower()} on {engine.device.type}")
    return dataclasses.replace(experiment, train=train), chosen


def log_engine(engine: Engine, batching: Batching) -> None:
    """Log the engine and the batch sizes as they are, for comparison with what was intended."""
    engine.log(
        f"engine={engine.name} backend={engine.backend} world_size={engine.world_size} "
        f"precision={engine.precision} global_batch={batching.global_batch} "
        f"micro_batch={batching.micro_batch} accumulation={batching.accumulation}"
    )
    engine.log(thread_line(torch.get_num_threads()))


def prepare_disk(directory: RunDir, experiment: Experiment) -> None:
    """Lock the run directory, remove unfinished checkpoints and build the built-in sample.

    On the main process only.
    """
    directory.lock()
    with writing(directory.checkpoints):
        checkpoint.remove_drafts(directory.checkpoints)
    if experiment.data.folder == SAMPLE_SHARDS:
        build_sample()


def find_checkpoint(directory: RunDir, engine: Engine) -> Checkpoint | None:
    """Open the newest whole checkpoint, if there is one. Collective.

    Each rank checks its share of the files. Raises ConfigError where ranks find different
    checkpoints.
    """
    paths = checkpoint.list_checkpoints(directory.checkpoints)
    engine.require_equal(
        zlib.crc32(" ".join(path.name for path in paths).encode()),
        f"{directory.folder}: not all ranks find the same checkpoint; "
        "the run directory must lie on a disk that all machines share",
    )
    for path in reversed(paths):
        saved, damage = None, None
        try:
            saved = checkpoint.open_share(path, engine.rank, engine.world_size)
        except checkpoint.DamagedCheckpoint as error:
            damage = str(error)
        damage = engine.first_message(damage)
        if damage is None:
            return saved
        engine.log(f"damaged checkpoint skipped: {damage}")
    return None


def resume(run: Run, saved: Checkpoint) -> None:
    """Load all but the model's weights from a checkpoint."""
    run.engine.load_optimizer_state(saved.optimizer)
    run.state.load(saved)
    run.meter.load(saved.state["meter"])
    run.best = saved.state["best"]
    run.images = saved.images
