"""Full evaluation of a trained model: metrics of a validation, and more expensive metrics.

The following metrics are too expensive during training: FID and LPIPS (`network_metrics`), overlap
of boxes (`retrieval`), smoothness of interpolations (`path_smoothness`), interpolations and
reconstructions compared with training pages (`sample_metrics`), and baselines that are fitted to
training pages (`baselines`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from shards.errors import UserError
from shards.reading.batch import Batch
from shards.reading.selection import Selection
from vaetrain.artifacts.final_model import load_encoder
from vaetrain.config.training import MIN_PAGES
from vaetrain.data.loading import PageReader
from vaetrain.evaluation import baselines
from vaetrain.evaluation.baselines import MAX_FITTED_PAGES
from vaetrain.evaluation.blend_gap import interpolation_blend_gap, middle_steps
from vaetrain.evaluation.fid import RandomFeatures
from vaetrain.evaluation.network_metrics import NetworkMetrics
from vaetrain.evaluation.page_measurer import PageMeasurer
from vaetrain.evaluation.path_smoothness import MAX_PATHS, path_smoothness
from vaetrain.evaluation.retrieval import RetrievalMetrics
from vaetrain.evaluation.sample_metrics import SampleMetrics
from vaetrain.evaluation.validation import compared_ids, encode_pages, of_mu, summarise
from vaetrain.inference.each_page import for_each_page
from vaetrain.inference.trained_model import TrainedModel
from vaetrain.losses.objective import Objective
from vaetrain.schedules import weights_at

# Pages that are compared with one another (mutual information, retrieval, clusters, pixels), evenly
# spaced by sample id.
MAX_EVALUATED_PAGES = 4096
MAX_SAMPLES = 512  # samples of the prior, and as many training pages
# With a detail: drawing a page takes more than half a second of a CPU core.
MAX_DRAWN_SAMPLES = 128
FLAT_BASELINES = ("pca", "pixels")  # whose metrics are `pca_<metric>` and `pixels_<metric>` as well
# Their names of the time when only the search used the embedding; aliases.
SEARCH_METRICS = ("precision_at_10", "box_iou_at_10")


def evaluate_model(
    trained: TrainedModel,
    data: PageReader,
    split: str,
    training: PageReader | None = None,
    refine: int = 0,
) -> dict[str, Any]:
    """Return all metrics of a model on one split of the shards. Collective.

    Args:
        split: `train`, `val` or `all`.
        training: shards whose training pages the baselines are fitted to; None: no baselines.
        refine: steps of `refined_metrics`; 0: these are left out.

    Returns: on the main process, metrics by the names of metrics.jsonl; `latent_std`, a list of the
        standard deviations of the latent dimensions; `baselines`, the metrics of each baseline by
        its name, and those of `FLAT_BASELINES` again as `<baseline>_<metric>`. On the other ranks,
        an incomplete dictionary.

    Raises UserError if there are no pages.
    """
    experiment, engine = trained.experiment, trained.engine
    selection = require_pages(data, split, "--shards")
    if training is not None:
        require_pages(training, "train", "--baselines")
    compared = selection.spaced(MAX_EVALUATED_PAGES)
    encoded = encode_pages(
        trained.model,
        trained.batches(data, split, "evaluating"),
        engine,
        Objective(experiment, load_encoder).to(engine.device),
        weights_at(experiment, math.inf, math.inf),
        compared_ids(selection, compared),
    )
    networks = NetworkMetrics(experiment.loss, data, selection)
    retrieval = RetrievalMetrics(data, compared, engine)
    metrics: dict[str, Any] = {"pages": len(selection)}
    mu = embeddings = None
    if encoded is not None:
        metrics |= summarise(encoded)
        mu = encoded.pages.mu
        embeddings = encoded.pages.embeddings(trained.space_for(encoded.pages.features))
    metrics |= networks.metrics(trained.reconstruct)
    if encoded is not None and len(selection) > 1:
        metrics["latent_std"] = encoded.latents.deviation.tolist()
    by_embedding = retrieval.metrics(embeddings)
    metrics |= by_embedding | of_mu(retrieval.metrics(mu))
    metrics |= {
        f"{name}_search": by_embedding[name] for name in SEARCH_METRICS if name in by_embedding
    }
    metrics |= path_smoothness(trained, data, selection)
    if refine:
        metrics |= refined_metrics(trained, trained.batches(data, split, "refining"), refine)
    metrics |= prior_metrics(trained, data, selection, training, networks)
    if training is not None:
        baselines = baseline_metrics(trained, data, selection, training, retrieval, networks)
        metrics["baselines"] = baselines
        for name in FLAT_BASELINES:
            metrics |= {f"{name}_{metric}": value for metric, value in baselines[name].items()}
    return metrics


def refined_metrics(
    trained: TrainedModel, batches: Iterable[Batch | None], steps: int
) -> dict[str, float]:
    """Return the metrics of pages decoded from refined vectors alone. Collective.

    Returns: the pixel metrics by name, `refined_<metric>`, and `refined_kl` in nats a page.
    """
    kl = torch.zeros(2, dtype=torch.float64, device=trained.engine.device)  # sum, and pages

    def reconstruct(batch: Batch) -> Tensor:
        made, of_pages = trained.reconstruct_refined(batch, steps, skips=False)
        kl.add_(torch.stack([of_pages.double().sum(), kl.new_tensor(len(of_pages))]))
        return made

    metrics = baselines.score_reconstructions(reconstruct, batches, trained.engine)
    total, count = trained.engine.sum(kl).tolist()
    return {f"refined_{name}": value for name, value in metrics.items()} | {
        "refined_kl": total / count
    }


def prior_metrics(
    trained: TrainedModel,
    data: PageReader,
    pages: Selection,
    training: PageReader | None,
    networks: NetworkMetrics,
) -> dict[str, float]:
    """Return the metrics of samples, interpolations and reconstructions as pages. Collective.

    Args:
        pages: evaluated pages; those of `data` that are not trained on are the unseen ones.
        training: shards with the training pages; None: those of the run, if they are still where
            they were, else `data`.
    """
    model, engine = trained.model, trained.engine
    metrics = interpolation_blend_gap(model, data, pages, engine, MAX_PATHS)
    training = training or trained.training_shards() or data
    known = training.select("train")
    if training.index.header["table_sha256"] == data.index.header["table_sha256"]:
        pages = data.select("val")
    measurer = PageMeasurer(
        engine, int(data.ladder[-1]), data.config.width, (RandomFeatures(), networks.features)
    )
    is_decoded = trained.prior is None or trained.prior.detail is None
    comparison = SampleMetrics(
        measurer,
        (training, known),
        (data, pages),
        samples=MAX_SAMPLES if is_decoded else MAX_DRAWN_SAMPLES,
        references=MAX_FITTED_PAGES,
    )
    count = comparison.count
    if not count:
        engine.log(
            f"samples are not compared with training pages: {comparison.too_few} "
            f"({training.index.location} has {len(known)}; --baselines names other shards)"
        )
        return metrics
    metrics |= comparison.metrics(model, trained.prior, data.config.max_height)
    steps = middle_steps(model, trained.prior, data, pages, measurer, count)
    made = measurer.real_pages(training, known.thinned(count), trained.reconstruct)
    for name, measured in (("interpolation", steps), ("reconstruction", made)):
        if measured is not None and len(measured) >= MIN_PAGES:
            metrics |= {
                f"{name}_two_sample_accuracy": comparison.two_sample_accuracy(measured),
                f"{name}_flat_share": measured.flat_share,
            }
    return metrics


def require_pages(data: PageReader, split: str, option: str) -> Selection:
    """Return the pages of a split; raise UserError naming the option if there are none."""
    pages = data.select(split)
    if len(pages) == 0:
        remedy = "name other shards" + (", or --split all" if option == "--shards" else "")
        raise UserError(f"{option} {data.index.location}: has no pages in `{split}`; {remedy}")
    return pages


def baseline_metrics(
    trained: TrainedModel,
    data: PageReader,
    pages: Selection,
    training: PageReader,
    retrieval: RetrievalMetrics,
    networks: NetworkMetrics,
) -> dict[str, dict[str, float]]:
    """Return the metrics of a blank page, the mean page, PCA and raw pixels. Collective.

    The mean page and the PCA are fitted to at most `MAX_FITTED_PAGES` evenly spaced training pages.
    The PCA has as many components as the latent has dimensions.
    """
    engine, model = trained.engine, trained.model
    size = (int(data.ladder[-1]), data.config.width)
    fitted = training.select("train").thinned(MAX_FITTED_PAGES)
    mean = baselines.mean_page(training.pages(fitted), engine, *size)
    pca = baselines.PagePCA(training.pages(fitted), engine, size, model.latent_dim)
    compared = pages.spaced(MAX_EVALUATED_PAGES)
    projected = for_each_page(
        pca.embed, len(pca.components), data.pages(compared), engine, to_main=True
    )
    projections = None if projected is None else projected[2]
    pixels = baselines.pixel_vectors(data, compared, engine, size)

    def score(reconstruct: Callable[[Batch], Tensor]) -> dict[str, float]:
        pixel_scores = baselines.score_reconstructions(reconstruct, data.pages(pages), engine)
        return pixel_scores | networks.metrics(reconstruct)

    return {
        "blank page": score(baselines.constant_page(torch.zeros_like(mean))),
        "mean page": score(baselines.constant_page(mean)),
        "pca": score(pca.reconstruct) | retrieval.metrics(projections),
        "pixels": retrieval.metrics(pixels),
    }
