"""Actions between steps: log lines, validations, checkpoints and the final model.

Every rank calls them at the same image count, and all of them are collective.
"""

from __future__ import annotations

from shards.atomic_files import CannotWrite
from shards.errors import UserError
from vaetrain.artifacts import same_run
from vaetrain.artifacts.final_model import write_final
from vaetrain.config.experiment import as_dict
from vaetrain.evaluation.baselines import score_baselines
from vaetrain.evaluation.blend_gap import interpolation_blend_gap
from vaetrain.evaluation.fid import RandomFeatures
from vaetrain.evaluation.network_metrics import NetworkMetrics
from vaetrain.evaluation.page_measurer import PageMeasurer
from vaetrain.evaluation.retrieval import PageLabels
from vaetrain.evaluation.sample_metrics import SampleMetrics
from vaetrain.evaluation.validation import alive_dimensions, compared_ids, encode_pages, summarise
from vaetrain.inference.embedding import MAX_FITTED_PAGES, fit_embedding
from vaetrain.inference.trained_model import reconstruct
from vaetrain.meters import ids_hash, ids_of_steps, skipped_steps_warning
from vaetrain.reporting.model_figures import model_figures
from vaetrain.reporting.projector import project_latents
from vaetrain.reporting.run_log import RunLog, summary_lines
from vaetrain.reporting.validation_figures import validation_figures
from vaetrain.training.build import Run
from vaetrain.training.collapse import PosteriorReport
from vaetrain.training.prior_fit import fit_prior

# Training pages that the embedding of a validation is fitted to: encoding them takes time.
FITTED_PAGES = 256


class TrainingFailed(UserError):
    """End of a run before its horizon, on all ranks; the message is one line."""


def log_means(run: Run, log: RunLog) -> None:
    """Log the means over the steps since the last log line."""
    steps = range(run.clock.steps(run.meter.since), run.clock.steps(run.images))
    epoch, watch = run.clock.epoch(run.images), run.stopwatch
    values = run.meter.read(run.images)
    values |= {
        "epoch": epoch,
        "beta": float(run.state.weights_at(epoch).beta),
        "lr": run.state.lr_at(epoch),
        "images_per_second": (run.images - watch.images) / watch.elapsed,
        "data_wait_share": watch.seconds["data"] / watch.elapsed,
        **run.objective.learned_weights(),
    }
    watch.restart(run.images)
    if run.state.gan is not None:
        values |= run.state.gan.read()
        for message in run.state.gan.warnings(values):
            log.print(message)
    ids = ids_of_steps(run.data.order, steps, run.engine)
    if ids is not None:
        values["ids_hash"] = ids_hash(ids)
        skipped = [ids[number].tolist() for number in run.meter.skipped]
        if skipped:
            values["skipped_ids"] = skipped
            log.print(skipped_steps_warning(skipped, len(steps), run.images))
    log.write_metrics("train", run.images, values)
    log.show_values(values)


def validate(run: Run, log: RunLog) -> PosteriorReport | None:
    """Evaluate the averaged model on every validation page and log the result.

    Returns: the state of the posterior; None where there are fewer than two validation pages.
    """
    run.engine.mark_progress(f"validating at {run.images} images")
    if len(run.data.val) == 0:
        return None
    epoch = run.clock.epoch(run.images)
    weights, model = run.state.weights_at(epoch), run.state.ema.model()
    data, engine = run.data, run.engine
    count, compared = len(data.val), compared_ids(data.val, data.compared)
    space = fit_embedding(model, data, data.train.thinned(FITTED_PAGES), engine)
    encoded = encode_pages(model, data.pages(data.val), engine, run.objective, weights, compared)
    results = None
    if encoded is not None:
        names = PageLabels.from_pages(data, encoded.pages.ids)
        results = summarise(encoded, names, space), alive_dimensions(encoded.latents, model)
    # Every rank needs them: the posterior report may change beta or end the run.
    metrics, alive = engine.broadcast_object(results)
    report = None
    if count > 1:
        report = run.state.collapse.update(
            alive,
            min(model.latent_dim, count - 1),
            float(weights.beta),
            latent_dim=model.latent_dim,
            l1=metrics["l1"],
            l1_shuffled=metrics.get("l1_shuffled"),
        )
        log.print(f"validation at {run.images} images: {report}")
    values = {"epoch": epoch, "beta": float(weights.beta), **metrics}
    values |= prior_metrics(run, log)
    log.write_metrics("val", run.images, values | {"verdict": report and report.state})
    if not run.best or metrics["l1"] < run.best["l1"]:
        run.best = {"images": run.images, **metrics}
    if encoded is not None and log.wants_pictures:
        figures = validation_figures(model, data, encoded.pages, space, run.prior)
        log.write_pictures(run.images, figures)
    return report


def prior_metrics(run: Run, log: RunLog) -> dict[str, float]:
    """Return the metrics of samples and interpolations, on the main process. Collective.

    At the end also those that networks compute.
    """
    data, wanted = run.data, run.experiment.train.validation_samples
    if not wanted:
        return {}
    model, networks, metrics = run.state.ema.model(), None, {}
    if run.is_at_end:
        fit_final_prior(run)
        # They take longer than all other metrics together.
        networks = NetworkMetrics(run.experiment.loss, data, data.val)
    if run.samples is None or networks is not None:
        measurer = PageMeasurer(
            run.engine,
            int(data.ladder[-1]),
            data.config.width,
            () if networks is None else (RandomFeatures(), networks.features),
        )
        sets = (data, data.train), (data, data.val)
        run.samples = SampleMetrics(measurer, *sets, samples=wanted)
        if not run.samples.count:
            log.print(f"samples are not compared with training pages: {run.samples.too_few}")
    if networks is not None and networks.has_weights:
        metrics |= networks.metrics(lambda batch: reconstruct(model, batch))
    metrics |= run.samples.metrics(model, run.prior, data.config.max_height)
    return metrics | interpolation_blend_gap(model, data, data.val, run.engine)


def save_checkpoint(run: Run, log: RunLog, *, required: bool = False) -> None:
    """Start to write a checkpoint from which any engine can resume; first report the last one.

    Args:
        required: wait until it is written, and raise where it cannot be, whatever
            `train.on_failed_save` says.

    Raises TrainingFailed.
    """
    _finish_checkpoint(run, log)
    run.engine.mark_progress(f"saving at {run.images} images")
    state = {
        "experiment": as_dict(run.experiment),
        "policy": run.forward.augment.policy.as_dict(),
        "data": run.data.fingerprint,
        same_run.ORDER: run.data.order.VERSION,
        "meter": run.meter.state(),
        "best": run.best,
        **run.state.json_state(),
    }
    try:
        run.writer.start(run.images, state, run.state.adversary(), log.sync)
    except CannotWrite as error:
        _report_failed_save(run, log, run.images, error, required)
    if required:
        _finish_checkpoint(run, log, required=True)


def _finish_checkpoint(run: Run, log: RunLog, *, required: bool = False) -> None:
    """Wait for the checkpoint that is being written, if there is one."""
    save = run.writer.current
    if save is None:
        return
    try:
        run.writer.finish()
    except CannotWrite as error:
        _report_failed_save(run, log, save.images, error, required)


def _report_failed_save(
    run: Run, log: RunLog, images: int, error: CannotWrite, required: bool
) -> None:
    if required or run.experiment.train.on_failed_save == "stop":
        log.close()
        raise TrainingFailed(
            f"no checkpoint at {images} images: {error}; when that is solved, the same "
            "command resumes from the checkpoint before"
        ) from error
    log.print(
        f"warning: no checkpoint at {images} images: {error}; the one before it stays, and "
        "training continues (train.on_failed_save)"
    )


def write_final_model(run: Run, log: RunLog) -> None:
    """Export the averaged model with its model card, and log what the run reached."""
    run.engine.mark_progress("writing the final model")
    model = run.state.ema.model()
    baselines = score_baselines(run.data, model.latent_dim)
    results = {"images": run.images, "best": run.best, "baselines": baselines}
    results["data"] = run.data.summary
    fit_final_prior(run)
    pages = run.data.train.thinned(MAX_FITTED_PAGES)
    model.space = fit_embedding(model, run.data, pages, run.engine)
    has_val = len(run.data.val) > 0

    def write() -> None:
        results["final"] = log.last_validation()
        pictures = model_figures(model, run.data.fixed_pages(), run.prior) if has_val else {}
        write_final(run.directory.final, model, run.experiment, results, pictures, run.prior)

    run.engine.on_main(write, TrainingFailed)
    if run.engine.is_main:
        log.write_final_model(run.directory.final)
        if log.has_projector and has_val:
            log.write_projection(run.images, project_latents(model, run.data))
    for line in summary_lines(run.directory.folder, results, log.viewers):
        log.print(line)


def fit_final_prior(run: Run) -> None:
    """Fit the prior that the experiment asks for to the finished model. Collective.

    The last validation already measures its samples.
    """
    config, model = run.experiment.prior, run.state.ema.model()
    is_fitted = config.is_fitted(is_spatial=model.is_spatial, pages=len(run.data.train))
    if run.prior is not None or not is_fitted:
        return
    prior = fit_prior(
        model,
        run.data,
        run.data.train,
        config,
        run.engine,
        max_height=run.experiment.data.max_height,
        seed=run.experiment.train.seed,
    )
    prior = run.engine.broadcast_object(prior and prior.to("cpu"))
    run.prior = prior.to(run.engine.device)
