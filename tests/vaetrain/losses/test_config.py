"""Settings that follow from the table of loss terms."""

import dataclasses

from vaetrain.losses.config import LossConfig, Phase

TERM_NAMES = ["recon", "ssim", "ms_ssim", "gradient", "perceptual"]


def test_sections_list_the_terms_in_the_order_of_checkpoints_and_help():
    loss = [field.name for field in dataclasses.fields(LossConfig)]
    assert loss == ["pixel", *TERM_NAMES, "perceptual_net", "perceptual_weights", "combine"]
    assert [field.name for field in dataclasses.fields(Phase)] == ["epoch", *TERM_NAMES, "beta"]


def test_only_binary_cross_entropy_is_computed_on_logits():
    on_logits = [
        pixel for pixel in ("l1", "mse", "charbonnier", "bce") if LossConfig(pixel).on_logits
    ]
    assert on_logits == ["bce"]
