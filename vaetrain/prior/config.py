"""Settings of the prior."""

from __future__ import annotations

from dataclasses import dataclass

from vaetrain.settings import setting

FEWEST_PAGES = 256  # fewer latents than dimensions: the flow only repeats the training pages


@dataclass
class PriorConfig:
    kind: str = setting(
        "auto",
        "prior of the final model's samples. flow: a rectified flow, fitted to the training pages "
        "when the training ends; none: the normal distribution of the training; auto: flow for a "
        "vector latent and 256 training pages or more, else none. The flow of a spatial latent is "
        "a transformer, to which the default steps are far too few",
        choices=("auto", "flow", "none"),
    )
    width: int = setting(256, "channels of the flow's layers", minimum=8)
    blocks: int = setting(4, "residual blocks of the flow", minimum=1)
    steps: int = setting(
        2000,
        "optimizer steps of the fit; small data sets take fewer, see prior.epochs",
        minimum=1,
    )
    epochs: int = setting(200, "the most epochs of the fit", minimum=1)
    batch: int = setting(128, "latents per step of the fit", minimum=1)
    lr: float = setting(1e-3, "peak learning rate of the fit", above=0)

    detail: bool = setting(
        True,
        "also fit a model that draws the pixels of a sample one after the other, given the decoded "
        "page, so that samples have sharp boxes; 4,096 pages take half an hour of a CPU core",
    )
    detail_width: int = setting(128, "channels of the detail's hidden layers", minimum=8)
    detail_steps: int = setting(
        8000, "the most optimizer steps of the detail's fit, 8 pages each", minimum=1
    )
    detail_epochs: int = setting(16, "the most epochs of the detail's fit", minimum=1)

    def is_fitted(self, *, is_spatial: bool, pages: int) -> bool:
        """Return whether a flow is fitted to a model's latents of so many training pages."""
        if self.kind == "auto":
            return not is_spatial and pages >= FEWEST_PAGES
        return self.kind == "flow"
