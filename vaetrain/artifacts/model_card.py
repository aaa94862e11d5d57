"""Model card of a finished run: purpose, use, data, metrics and limits of the model.

Markdown below YAML, as on the Hugging Face Hub (hf.co/docs/hub/model-cards). Everything in it comes
from the run; metrics that were not measured are left out.
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
    "precision_at_10": "precision@10 of labels among pages of other templates, embedding",
    "active_units": "active units",
    "kl": "KL, nats a page",
    "bits_per_page": "bound on the code length, bits a page",
}
COMPARED = {
    "two_sample_accuracy": "accuracy of a classifier that tells them from training pages",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "fid_random": "Fréchet distance, features of a random network",
    "nearest_train": "mean distance to the nearest training page",
    "flat_share": "share of flat pixels",
}
CAPTIONS = {
    "reconstructions": "Validation pages, their reconstructions, and ten times the error.",
    "prior_samples": "Pages decoded from the prior.",
    "interpolation": "Interpolations between two validation pages.",
}


def model_card(experiment: Experiment, results: dict[str, Any], pictures: Iterable[str]) -> str:
    """Return the model card as Markdown.

    Args:
        results: results of the run, as `write_final` takes them; missing entries are left out.
        pictures: names of the PNGs in the folder of the card.
    """
    title, scores = plain(experiment.name), results.get("final", {})
    parts = [
        f"# {title}",
        _purpose(experiment),
        "## Use\n\n" + _use(),
        "## Data\n\n" + _data(experiment, results.get("data", {})),
        "## Metrics\n\n" + _metrics(scores, results),
        "## Samples\n\n" + _samples(scores),
        "## Pictures\n\n" + _pictures(pictures),
        "## Limits\n\n" + _limits(experiment, results.get("data", {})),
    ]
    shown = [part for part in parts if not part.endswith("\n\n")]  # no heading without content
    front = yaml.safe_dump(_front(title, scores), sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n" + "\n\n".join(shown) + "\n"


def plain(text: str) -> str:
    """Replace what Markdown or HTML would interpret in a user's text: marks, and bare addresses.

    GitHub Flavored Markdown, section 6.9, makes links of `www.`, `http://`, e-mail addresses etc.
    """
    text = re.sub(r"[^\w .,:/@+-]", "_", text)
    return re.sub(r"www\.|://|mailto:|xmpp:|@", lambda link: "_" * len(link[0]), text, flags=re.I)


def _front(title: str, scores: dict[str, float]) -> dict[str, Any]:
    front: dict[str, Any] = {
        "library_name": "vaetrain",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["vae", "wireframe", "user-interface", "safetensors"],
    }
    metrics = [
        {"type": key, "value": scores[key], "name": meaning}
        for key, meaning in SHOWN.items()
        if key in scores
    ]
    if metrics:
        front["metrics"] = [metric["type"] for metric in metrics]
        result = {
            "task": {"type": "image-feature-extraction", "name": "Reconstruction of wireframes"},
            "dataset": {"type": "wireframes", "name": "validation pages of the run's shards"},
            "metrics": metrics,
        }
        front["model-index"] = [{"name": title, "results": [result]}]
    return front


def _purpose(experiment: Experiment) -> str:
    model, data = experiment.model, experiment.data
    latent = "a vector" if model.latent == "vector" else "a vector for every 16 x 16 pixels"
    return (
        "A variational autoencoder of wireframes, the nested boxes of web pages and app screens. "
        f"It encodes a page {data.width} pixels wide and up to {data.max_height} rows high as "
        f"{latent} of {model.latent_dim} dimensions, and decodes it again. Architecture: "
        f"{model.size}, {model.blocks} blocks, attention {model.attention}, skip connections "
        f"{model.skips}."
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
        "fp32, an exponential moving average over the training; `config.json` holds all settings."
    )


def _data(experiment: Experiment, data: dict[str, Any]) -> str:
    shards = experiment.data.shards  # only its name is published, not the path on this machine
    source = "the built-in sample" if shards is None else Path(shards).name
    text = f"Shards: {plain(source)}."
    if data:
        text += (
            f" {data['train_pages']} training pages, {data['val_pages']} validation pages; SHA-256 "
            f"of the index's table: `{data['fingerprint']}`."
        )
    return text + f" Augmentation: {plain(experiment.augment.policy)}."


def _metrics(scores: dict[str, float], results: dict[str, Any]) -> str:
    if not scores:
        has_none = results.get("data", {}).get("val_pages") == 0
        return "Nothing was measured: the shards have no validation pages." if has_none else ""
    measured = {name: values for name, values in results.get("baselines", {}).items() if values}
    columns = {"this model": scores, **measured}
    lines = [
        f"On the validation pages, after {scores['images']} images; reconstructions decoded from "
        "`mu`.\n",
        "| | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for key, meaning in SHOWN.items():
        if key in scores:
            values = [f"{column[key]:.4g}" if key in column else "" for column in columns.values()]
            if key == "active_units" and "active_units_of" in scores:
                meaning += f", of {scores['active_units_of']}"
            lines.append(f"| {meaning} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def _samples(scores: dict[str, float]) -> str:
    """Return the table of samples beside unseen real pages; empty if none were measured."""
    lines = [
        "Samples of the prior and as many unseen real pages, each compared with training pages.\n",
        "| | samples | unseen real pages |",
        "|---|---|---|",
    ]
    for key, meaning in COMPARED.items():
        # Of real pages, the share of flat pixels is a metric of its own.
        real = key if key == "flat_share" else f"real_{key}"
        if f"sample_{key}" in scores:
            values = [f"{scores[n]:.3g}" if n in scores else "" for n in (f"sample_{key}", real)]
            lines.append(f"| {meaning} | " + " | ".join(values) + " |")
    return "\n".join(lines) if len(lines) > 3 else ""


def _pictures(names: Iterable[str]) -> str:
    return "\n\n".join(f"![{CAPTIONS.get(name, name)}]({name}.png)" for name in names)


def _limits(experiment: Experiment, data: dict[str, Any]) -> str:
    limits = [
        "It was trained on wireframes only; screenshots are not valid input.",
        f"Rows beyond {experiment.data.max_height}, after scaling to {experiment.data.width} "
        "pixels of width, are cut off.",
        "The metrics hold for pages like the validation pages. Those were evaluated during "
        "training, so that new pages may score lower.",
        "A wireframe has no text, colours or pictures, and pages decoded from the prior are "
        "arrangements of boxes, not verified designs.",
    ]
    if not data.get("val_pages", 1):
        limits[2] = "There were no validation pages, so the quality of the model is unknown."
    return "\n".join(f"- {limit}" for limit in limits)
