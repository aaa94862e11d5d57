"""TensorBoard: event files in the run directory."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.tracking import TensorBoardTracker
from torch.utils.tensorboard.summary import hparams

from shards.errors import one_line
from vaetrain.data.config import SAMPLE_SHARDS
from vaetrain.trackers.base import Projection, RunTracker, TrackedRun

# Charts of several curves by category and title, for the dashboard CUSTOM SCALARS.
CHARTS: dict[str, dict[str, tuple[str, ...]]] = {
    "Losses of training and validation": {
        name: (f"train/{name}", f"val/{name}") for name in ("loss", "recon", "ssim", "kl")
    },
    "Reconstructions from mu, and from a latent drawn from the posterior": {
        name: (f"val/{name}", f"val/{name}_sampled") for name in ("l1", "ssim")
    },
    "Samples, and unseen real pages, both compared with training pages. Latents of samples are "
    "from N(0, I); only the last validation has a fitted prior": {
        "accuracy of telling them from training pages (0.5: impossible)": (
            "val/sample_two_sample_accuracy",
            "val/real_two_sample_accuracy",
        ),
        **{
            name: (f"val/sample_{name}", f"val/real_{name}")
            for name in ("precision", "recall", "density", "coverage")
        },
        "distance to the nearest training page, L1": (
            "val/sample_nearest_train",
            "val/real_nearest_train",
        ),
        "share of flat pixels": ("val/sample_flat_share", "val/flat_share"),
        "interpolations: difference from a blend (0: a cross-fade)": (
            "val/interpolation_blend_gap",
        ),
    },
    "Embedding, and raw mu": {
        name: (f"val/{name}", f"val/{name}_mu")
        for name in ("precision_at_10", "knn_label_accuracy", "nmi", "viewport_recall_at_10")
    },
}


def custom_charts(tags: Collection[str]) -> dict[str, dict[str, list[Any]]]:
    """Return the charts of these curves, as `SummaryWriter.add_custom_scalars` takes them."""
    layout: dict[str, dict[str, list[Any]]] = {}
    for category, charts in CHARTS.items():
        for title, curves in charts.items():
            # TensorBoard takes regular expressions and matches the beginning of a tag.
            known = [f"{curve}$" for curve in curves if curve in tags]
            if known:
                layout.setdefault(category, {})[title] = ["Multiline", known]
    return layout


def atlas_commands(run: Path, shards: str | Path) -> str:
    """Return the commands that group a run's pages and show them in a browser, as Markdown."""
    folder, source, clusters = (
        shlex.quote(one_line(str(path))) for path in (run, shards, run / "clusters")
    )
    commands = (
        f"python -m vaetrain.cluster {folder} --shards {source} --out {clusters}",
        f"python -m vaetrain.atlas {folder} --shards {source} --clusters {clusters} --serve",
    )
    lines = "".join(f"\n    {command}" for command in commands)
    return f"The kinds of pages, and a map of all pages in a browser:\n{lines}\n"


class TensorBoard(RunTracker, TensorBoardTracker):
    """Event files in `events/` of the run directory."""

    has_projector = True

    def __init__(self, run: TrackedRun) -> None:
        # Points beyond the checkpoint that a run resumes from are hidden.
        super().__init__("events", run.folder, purge_step=run.images + 1)
        self.viewer = f"tensorboard --logdir {shlex.quote(str(run.folder))}"
        self.tags: set[str] = set()
        self.has_charts = False
        self.run = run

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Keep the settings until the final metrics, with which they are written.

        The tab of texts gets the commands that show the run's pages in a browser.
        """
        self.settings = values
        shards = values["data.shards"]
        text = atlas_commands(self.run.folder, SAMPLE_SHARDS if shards == "None" else shards)
        self.writer.add_text("atlas", text, self.run.images)

    def log(self, values: dict[str, float], step: int, **options: Any) -> None:
        """Log numbers; after the first validation, also the charts that show several curves."""
        super().log(values, step=step, **options)
        self.tags |= values.keys()
        if not self.has_charts and any(tag.startswith("val/") for tag in values):
            self.writer.add_custom_scalars(custom_charts(self.tags))
            self.has_charts = True

    def log_pictures(self, pictures: dict[str, np.ndarray], step: int) -> None:
        """Log grey pictures, uint8 (H, W), by name."""
        stacks = {name: picture[None, :, :, None] for name, picture in pictures.items()}
        self.log_images(stacks, step=step, dataformats="NHWC")

    def log_projection(self, projection: Projection, step: int) -> None:
        """Log latents for the embedding projector, with sprites and texts of the pages."""
        self.writer.add_embedding(
            projection.vectors,
            metadata=projection.names,
            metadata_header=projection.columns,
            label_img=projection.sprites,
            global_step=step,
            tag="latents",
        )

    def log_final_model(self, final: Path, metrics: dict[str, Any], step: int) -> None:
        """Log settings and the names of the metrics for TensorBoard's table of runs.

        The table shows the last points of the validation curves. `SummaryWriter.add_hparams` would
        add a curve of one point for every metric. Event files do not contain models.
        """
        named = {f"val/{name}": value for name, value in metrics.items()}
        for summary in hparams(self.settings, named):
            self.writer.file_writer.add_summary(summary, step)
