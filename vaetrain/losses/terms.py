"""Tables of the loss terms and of the pixel losses.

The settings of the losses and their help texts follow from these tables. Settings are checked
before torch is imported, so functions are named here as `module:name` and imported when the
objective is built.

To add a term: write its function in a module of this package, and add an entry and a test.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LossTerm:
    """A loss between a page and its reconstruction, one summand of the objective.

    The loss is a function of `(prediction, target, heights)`, images (B, 1, H, W) in [0, 1] and
    Long (B,) valid rows, and returns (B,).

    Attributes:
        name: of the setting `loss.<name>`, of the curriculum's weight and of the metric.
        meaning: help text of the setting.
        function: `module:name` of the loss.
        builder: `module:name` of a function of `(LossConfig, LoadEncoder)` that returns the loss,
            instead of `function`, for a loss that depends on settings. An `nn.Module` is moved to
            the device together with the objective.
        weight: default of the setting.
        is_similarity: the value is 1 for equal pages, and `1 - value` is minimised.
        is_always_computed: computed and logged even if its weight is 0.
        uses_logits: the prediction holds logits where `loss.pixel` is a loss of logits.
        compares_pages: the loss is computed from all pages of a step, without a function here; it
            exists in training only (`vaetrain.training.contrast`).
    """

    name: str
    meaning: str
    function: str | None = None
    builder: str | None = None
    weight: float = 0.0
    is_similarity: bool = False
    is_always_computed: bool = False
    uses_logits: bool = False
    compares_pages: bool = False


# The order is that of the settings, of the sum and of the metrics.
TERMS = (
    LossTerm(
        "recon",
        "weight of the reconstruction loss",
        builder="vaetrain.losses.factory:build_pixel_loss",
        weight=1.0,
        is_always_computed=True,
        uses_logits=True,
    ),
    LossTerm(
        "ssim",
        "weight of 1 - SSIM, mean over a page's windows",
        function="vaetrain.losses.ssim:ssim",
        weight=0.1,
        is_similarity=True,
        is_always_computed=True,
    ),
    LossTerm(
        "ms_ssim",
        "weight of 1 - MS-SSIM",
        function="vaetrain.losses.ssim:ms_ssim",
        is_similarity=True,
    ),
    LossTerm(
        "gradient",
        "weight of the L1 between the images' finite differences, mean along x plus mean along y",
        function="vaetrain.losses.gradient_difference:gradient_difference",
    ),
    LossTerm(
        "perceptual",
        "weight of the distance between a frozen network's features",
        builder="vaetrain.losses.factory:build_perceptual",
    ),
    LossTerm(
        "contrastive",
        "weight of InfoNCE between mu of two views of a page, over the global batch",
        compares_pages=True,
    ),
)


@dataclass(frozen=True)
class PixelLoss:
    """A choice of `loss.pixel`.

    Attributes:
        function: `module:name` of the loss, see `LossTerm`.
        output: the value of `model.output` whose logits are the prediction.
        is_likelihood: the loss is the exact negative log likelihood of the page's pixels in nats.
            `bce` is not: it is that of a page of black and white pixels, of which the page's values
            are the probabilities.
    """

    function: str
    output: str = "linear"
    is_likelihood: bool = False


PIXEL_LOSSES = {
    "l1": PixelLoss("vaetrain.losses.pixel:l1"),
    "mse": PixelLoss("vaetrain.losses.pixel:mse"),
    "charbonnier": PixelLoss("vaetrain.losses.pixel:charbonnier"),
    "bce": PixelLoss("vaetrain.losses.pixel:bce_with_logits", output="sigmoid"),
    "nll": PixelLoss("vaetrain.losses.pixel:levels_nll", output="levels", is_likelihood=True),
}
