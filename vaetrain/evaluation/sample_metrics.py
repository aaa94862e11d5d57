"""Comparison of sets of pages with training pages: samples of the prior, and unseen real pages.

Unseen real pages are compared as well, so that a reader knows what value real pages get. Training
pages are the reference, not unseen ones, because families of pages differ: perfect samples of the
training families are unlike pages of unseen families.
"""

from __future__ import annotations

from dataclasses import asdict

import torch

from shards.reading.selection import Selection
from vaetrain.config.training import MIN_PAGES
from vaetrain.data.loading import PageReader
from vaetrain.evaluation.fid import Gaussian, frechet_distance, kernel_distance
from vaetrain.evaluation.layout_statistics import LayoutDistances
from vaetrain.evaluation.page_features import raster_distances
from vaetrain.evaluation.page_measurer import MeasuredPages, PageMeasurer
from vaetrain.evaluation.prdc import prdc
from vaetrain.evaluation.two_sample import two_sample_accuracy
from vaetrain.model.vae import VAE
from vaetrain.prior.prior import Prior

MIN_UNSEEN = 50  # with fewer unseen pages, the number of samples does not follow theirs
REFERENCES = 256  # training pages among which the nearest is searched, during a training


class SampleMetrics:
    """Metrics of samples and of unseen real pages, both against training pages.

    Attributes:
        count: pages of each compared set; 0: there are too few, and nothing is measured.
        too_few: the reason if so.
    """

    def __init__(
        self,
        measurer: PageMeasurer,
        training: tuple[PageReader, Selection],
        unseen: tuple[PageReader, Selection],
        *,
        samples: int,
        references: int = REFERENCES,
    ) -> None:
        """Measure the real pages. Collective.

        Args:
            training, unseen: shards, and the pages of them.
            samples: the most pages of each set that are compared.
            references: the most training pages among which the nearest is searched.
        """
        self.measurer = measurer
        known, new = len(training[1]), len(unseen[1])
        has_unseen = new >= MIN_UNSEEN
        self.count = min(samples, known, new if has_unseen else samples)
        self.too_few = ""
        if self.count < MIN_PAGES:
            self.too_few = f"{self.count} pages are too few; {MIN_PAGES} are needed"
            self.count = 0
            return
        self.training = measurer.real_pages(training[0], training[1].thinned(self.count))
        self.rasters = measurer.rasters(training[0], training[1].thinned(references))
        self.unseen = measurer.real_pages(unseen[0], unseen[1].spaced(self.count)) if new else None
        self.real: dict[str, float] = {}
        if self.unseen is not None:
            self.real["flat_share"] = self.unseen.flat_share
            if has_unseen:
                found = self.compare(self.unseen)
                self.real |= {f"real_{n}": v for n, v in found.items() if n != "flat_share"}

    def compare(self, pages: MeasuredPages) -> dict[str, float]:
        """Compare a set of pages with training pages, on the main process.

        Returns: `two_sample_accuracy`; `precision`, `recall`, `density`, `coverage` of the features
            divided by their deviations over the training pages; the Frechet and kernel distances of
            the measurer's networks, such as `fid_random` and `kid_random`; `nearest_train`, the
            mean distance to the nearest training page; `<distribution>_distance`, see
            `LayoutDistances`; and `flat_share`.
        """
        reference, width = self.training, self.measurer.size[1]
        metrics = {"two_sample_accuracy": self.two_sample_accuracy(pages)}
        deviation = reference.features.double().std(dim=0)
        scale = torch.where(deviation > 0, deviation, 1.0)
        metrics |= prdc(reference.features / scale, pages.features / scale)
        for name, known in reference.networks.items():
            made = pages.networks[name]
            gaussians = Gaussian.from_features(known), Gaussian.from_features(made)
            metrics[name] = frechet_distance(*gaussians)
            metrics[name.replace("fid", "kid")] = kernel_distance(known, made)
        heights, rasters = self.rasters
        nearest = raster_distances(pages.raster, rasters, pages.heights, heights, width)
        metrics["nearest_train"] = nearest.amin(dim=1).mean().item()
        distances = LayoutDistances.between(
            pages.layout, reference.layout, pages.heights / width, reference.heights / width
        )
        metrics |= {f"{name}_distance": value for name, value in asdict(distances).items()}
        metrics["flat_share"] = pages.flat_share
        return metrics

    def two_sample_accuracy(self, pages: MeasuredPages) -> float:
        """Return the accuracy of telling these pages from as many training pages."""
        reference = self.training
        return two_sample_accuracy(
            reference.features.numpy(), pages.features.numpy(), reference.groups, pages.groups
        )

    def metrics(self, model: VAE, prior: Prior | None, max_height: int) -> dict[str, float]:
        """Return the metrics of samples, `sample_*`, and of unseen pages, `real_*`. Collective.

        Args:
            prior, max_height: see `PageMeasurer.samples`.

        Returns: on all ranks but the main process, and without enough pages, nothing.
        """
        if not self.count:
            return {}
        samples = self.measurer.samples(model, prior, self.count, max_height)
        if samples is None:
            return {}
        found = self.compare(samples)
        return {f"sample_{name}": value for name, value in found.items()} | self.real
