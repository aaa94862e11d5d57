"""A run is the same for every split of the global batch over ranks and accumulation steps."""

import json

import pytest
import torch

from tests.support.tensors import relative_difference

KINDS = {"plain": (), "augmented": ("augment.policy=strong", "augment.mixup_alpha=0.4")}
SPLITS = {
    "two-ranks": ("ddp", "train.micro_batch_size=4"),
    "accumulation-2": ("single", "train.micro_batch_size=4"),
    "accumulation-4": ("single", "train.micro_batch_size=2"),
    "two-ranks-accumulation-2": ("ddp", "train.micro_batch_size=2"),
}
# Ranks and accumulation together are the quick case.
QUICK_SPLIT = "two-ranks-accumulation-2"
SPLIT_CASES = [
    QUICK_SPLIT,
    *(pytest.param(name, marks=pytest.mark.slow) for name in SPLITS if name != QUICK_SPLIT),
]


# A fault of the plain training is one of the augmented training, too.
@pytest.fixture(scope="module", params=[pytest.param("plain", marks=pytest.mark.slow), "augmented"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def reference(trainer, kind):
    trainer.train(f"{kind}-one-rank", *KINDS[kind])
    return f"{kind}-one-rank"


@pytest.fixture(scope="module", params=SPLIT_CASES)
def split(trainer, kind, request):
    engine, setting = SPLITS[request.param]
    name = f"{kind}-{request.param}"
    trainer.train(name, setting, "data.workers=3", *KINDS[kind], engine=engine)
    return name


def test_thirty_steps_agree(trainer, reference, split):
    expected, found = trainer.lines(reference), trainer.lines(split)
    assert len(expected) == 30
    assert [line["ids_hash"] for line in found] == [line["ids_hash"] for line in expected]
    for key in ("loss", "recon", "kl"):
        values = [line[key] for line in found]
        assert values == pytest.approx([line[key] for line in expected], rel=1e-5), key
    # An SSIM near 0 has few correct digits; 1 - SSIM, the loss, has all of them.
    values = [1 - line["ssim"] for line in found]
    assert values == pytest.approx([1 - line["ssim"] for line in expected], rel=1e-5)
    norms = [line["grad_norm"] for line in found]
    assert norms == pytest.approx([line["grad_norm"] for line in expected], rel=1e-4)
    assert relative_difference(trainer.weights(split), trainer.weights(reference)) < 1e-4


def test_validation_agrees(trainer, reference, split):
    (expected,), (found,) = trainer.lines(reference, "val"), trainer.lines(split, "val")
    assert found.keys() == expected.keys()
    assert found["verdict"] == expected["verdict"]
    for key, value in expected.items():
        if key not in ("split", "verdict"):
            assert found[key] == pytest.approx(value, rel=1e-4), key


def test_pca_start_and_samples_are_the_same_on_two_ranks(trainer):
    lines, samples = [], []
    for engine in ("single", "ddp"):
        settings = ("model.start=components", "train.max_images=32", "train.validation_samples=24")
        trainer.train(f"components-{engine}", *settings, engine=engine)
        lines.append(trainer.lines(f"components-{engine}"))
        (validation,) = trainer.lines(f"components-{engine}", "val")
        samples.append({k: v for k, v in validation.items() if k.startswith(("sample", "interp"))})
    for single, ddp in zip(*lines, strict=True):
        assert ddp["loss"] == pytest.approx(single["loss"], rel=1e-5)
    single, ddp = samples
    assert {"sample_coverage", "sample_fid_random", "interpolation_blend_gap"} <= set(single)
    # Numbers of pages, of 24, may differ by one page where weights differ by rounding.
    assert ddp == pytest.approx(single, rel=1e-3, abs=1 / 24)


def test_principal_components_and_pixels_stand_beside_the_mean_page(trainer, split):
    """The main process alone fits the components, on any number of ranks."""
    final = trainer.folder / split / "final"
    baselines = json.loads((final / "config.json").read_text())["results"]["baselines"]
    assert list(baselines) == ["blank page", "mean page", "pca", "pixels"]
    assert baselines["pca"]["l1"] < baselines["mean page"]["l1"] < baselines["blank page"]["l1"]
    assert "l1" not in baselines["pixels"]
    assert "| | this model | blank page | mean page | pca |" in (final / "README.md").read_text()


def test_training_moves_the_weights(trainer, reference):
    """Otherwise the tests above would pass for a trainer that does nothing."""
    losses = [line["loss"] for line in trainer.lines(reference)]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    weights = trainer.weights(reference)
    assert not all(torch.equal(value, torch.zeros_like(value)) for value in weights.values())
