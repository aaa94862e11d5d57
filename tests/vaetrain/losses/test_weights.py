"""Loss terms that a training uses."""

import pytest

from vaetrain.config.experiment import load_experiment
from vaetrain.losses.weights import terms_in_use

PHASES = "curriculum.phases=[{epoch: 0, ssim: 0}, {epoch: 10, perceptual: 0.05}]"


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ([], ["recon", "ssim"]),
        ([PHASES], ["recon", "ssim", "perceptual"]),
        ([PHASES, "loss.recon=0", "loss.ssim=0"], ["perceptual"]),
    ],
)
def test_a_term_is_in_use_if_its_weight_is_ever_above_zero(settings, names):
    assert [term.name for term in terms_in_use(load_experiment(None, settings))] == names
