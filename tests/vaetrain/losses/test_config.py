"""Settings that follow from the table of loss terms."""

import dataclasses

from vaetrain.losses.config import LossConfig, Phase
from vaetrain.losses.terms import PIXEL_LOSSES, TERMS
from vaetrain.model.registry import OUTPUTS


def test_sections_list_the_terms_in_the_order_of_the_table():
    terms = [term.name for term in TERMS]
    # Checkpoints of learned loss weights depend on this order.
    assert terms[:5] == ["recon", "ssim", "ms_ssim", "gradient", "perceptual"]
    loss = [field.name for field in dataclasses.fields(LossConfig)]
    assert loss == ["pixel", *terms, "perceptual_net", "perceptual_weights", "combine"]
    assert [field.name for field in dataclasses.fields(Phase)] == ["epoch", *terms, "beta"]


def test_pixel_losses_say_whether_they_need_logits():
    assert {name for name in PIXEL_LOSSES if LossConfig(pixel=name).on_logits} == {"bce", "nll"}


def test_every_output_has_a_pixel_loss():
    assert {loss.output for loss in PIXEL_LOSSES.values()} == set(OUTPUTS)
