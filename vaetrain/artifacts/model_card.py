"""The model card of a finished run: what lies beside its weights for whoever finds them.

Markdown below YAML, as the Hugging Face Hub has it (hf.co/docs/hub/model-cards). Everything in it
comes from the run: what was not measured is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from vaetrain.config.experiment import Experiment

CARD = "README.md"
SHOWN = {
    "l1": "L1, mean over a page's pixels",
    "ssim": "SSIM, 11-pixel Gaussian window",
    "psnr": "PSNR, dB",
    "edge_f1": "box-edge F1",
    "l1_sampled": "L1, latent drawn from the posterior",
    "precision_at_10": "precision@10 of labels among pages of other templates, raw `mu`",
    "active_units": "active units",
    "kl": "KL, nats a page",
}
CAPTIONS = {
    "reconstructions": "Validation pages, what the model makes of them, and ten times the error.",
    "prior_samples": "Pages decoded from the prior.",
    "interpolation": "The way between two validation pages.",
}


def model_card(experiment: Experiment, results: dict[str, Any], pictures: Iterable[str]) -> str:
    """The card of a model.

    Args:
        results: what `Training.finish` gathers; whatever is missing is not told.
        pictures: names of the PNGs that lie beside the card.
    """
    title, scores = plain(experiment.name), results.get("final", {})
    parts = [
        f"# {title}",
        _purpose(experiment),
        "## Use\n\n" + _use(),
        "## Data\n\n" + _data(experiment, results.get("data", {})),
        "## Metrics\n\n" + _metrics(scores, results.get("baselines", {})),
        "## Pictures\n\n" + _pictures(pictures),
        "## Limits\n\n" + _limits(experiment, results.get("data", {})),
    ]
    shown = [part for part in parts if not part.endswith("\n\n")]  # a heading with nothing below
    front = yaml.safe_dump(_front(title, scores), sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n" + "\n\n".join(shown) + "\n"


def plain(text: str) -> str:
    """Text of the user's without what Markdown or HTML would take for its own."""
    return re.sub(r"[^\w .,:/@+-]", "_", text)


def _front(title: str, scores: dict[str, float]) -> dict[str, Any]:
    front: dict[str, Any] = {
        "library_name": "vaetrain",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["vae", "wireframe", "user-interface", "safetensors"],
    }
    told = [
        {"type": key, "value": scores[key], "name": meaning}
        for key, meaning in SHOWN.items()
        if key in scores
    ]
    if told:
        front["metrics"] = [metric["type"] for metric in told]
        result = {
            "task": {"type": "image-feature-extraction", "name": "Reconstruction of wireframes"},
            "dataset": {"type": "wireframes", "name": "validation pages of the run's shards"},
            "metrics": told,
        }
        front["model-index"] = [{"name": title, "results": [result]}]
    return front


def _purpose(experiment: Experiment) -> str:
    model, data = experiment.model, experiment.data
    latent = "a vector" if model.latent == "vector" else "a vector for every 16 x 16 pixels"
    return (
        "A variational autoencoder of wireframes, the nested boxes of web pages and app screens: a "
        f"page {data.width} pixels wide and up to {data.max_height} rows high to {latent} of "
        f"{model.latent_dim} dimensions, and back. Architecture: {model.size}, {model.blocks} "
        f"blocks, attention {model.attention}, skips {model.skips}."
    )


def _use() -> str:
    return (
        "```python\n"
        "from vaetrain import load_model\n\n"
        'model = load_model("this/folder")\n'
        "mu, logvar = model.encode(images, heights)  # (B, 1, H, W) in [0, 1], rows of each page\n"
        "pages = model.decode(mu, heights, tuple(images.shape[2:]))\n"
        "```\n\n"
        "A page's grey value is its nesting depth / 40. The weights in `model.safetensors` are "
        "fp32, averaged over the training; `config.json` has every setting."
    )


def _data(experiment: Experiment, data: dict[str, Any]) -> str:
    shards = experiment.data.shards  # a path, of which the machine's own part is nobody's business
    source = "the built-in sample" if shards is None else Path(shards).name
    told = f"Shards: {plain(source)}."
    if data:
        told += (
            f" {data['train_pages']} pages were trained on, {data['val_pages']} others are the "
            f"validation's; SHA-256 of the index's table: `{data['fingerprint']}`."
        )
    return told + f" Augmentation: {plain(experiment.augment.policy)}."


def _metrics(scores: dict[str, float], baselines: dict[str, dict[str, float]]) -> str:
    if not scores:
        return ""
    columns = {"this model": scores, **{name: found for name, found in baselines.items() if found}}
    lines = [
        f"On the validation pages, after {scores['images']} images; reconstructions decoded from "
        "`mu`.\n",
        "| | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for key, meaning in SHOWN.items():
        if key in scores:
            values = [f"{column[key]:.4g}" if key in column else "" for column in columns.values()]
            lines.append(f"| {meaning} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def _pictures(names: Iterable[str]) -> str:
    return "\n\n".join(f"![{CAPTIONS.get(name, name)}]({name}.png)" for name in names)


def _limits(experiment: Experiment, data: dict[str, Any]) -> str:
    limits = [
        "It has seen wireframes alone: pictures of screens are not its input.",
        f"Rows beyond {experiment.data.max_height}, after scaling to {experiment.data.width} "
        "pixels of width, are cut off.",
        "What the numbers say holds for pages like the validation's. They were looked at while it "
        "was trained; pages that were never looked at may score lower.",
        "Text, colours and pictures are not in a wireframe, and pages drawn from the prior are "
        "arrangements of boxes, not designs that anybody checked.",
    ]
    if not data.get("val_pages", 1):
        limits[2] = "There were no validation pages: nothing is known of how good it is."
    return "\n".join(f"- {limit}" for limit in limits)
