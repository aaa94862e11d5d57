"""What a batch-size study found, and what follows from it, in plain words."""

from __future__ import annotations

from typing import Any

import jsonschema

from benchmarks.support.batch_size.setups import PLAIN

AS_FAST = 0.95  # of the best: more is not worth its price


def _rows(**properties: Any) -> dict[str, Any]:
    row = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"type": "array", "items": row}


_COUNT = {"type": "integer", "minimum": 0}
_POSITIVE = {"type": "number", "exclusiveMinimum": 0}
_KNOWN = {"type": ["number", "null"]}
_NAME = {"type": "string"}
_SETUP = {"micro": _COUNT, "accumulation": _COUNT, "option": _NAME}
_SPREAD = {"q1": _POSITIVE, "median": _POSITIVE, "q3": _POSITIVE}
_DETAILS: dict[str, Any] = {
    "batch": _COUNT,
    "memory": _rows(micro=_COUNT, option=_NAME, predicted=_COUNT, measured=_KNOWN, cuda=_COUNT),
    "fits": _rows(option=_NAME, gib=_COUNT, micro=_COUNT),
    "speed": _rows(**_SETUP, **_SPREAD),
    "options": _rows(micro=_COUNT, option=_NAME, **_SPREAD),
    "target": {"type": "number"},
    "trainings": _rows(
        batch=_COUNT,
        rule=_NAME,
        lr=_POSITIVE,
        curve={"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
        images_per_second=_POSITIVE,
        images=_KNOWN,
        seconds=_KNOWN,
    ),
    "noise": _rows(
        images=_COUNT, pages=_KNOWN, low=_KNOWN, high=_KNOWN, gradient=_KNOWN, noise=_KNOWN
    ),
    "advice": {"type": "array", "items": _NAME},
}
DETAILS = {
    "type": "object",
    "properties": _DETAILS,
    "required": list(_DETAILS),
    "additionalProperties": False,
}
"""JSON Schema of what a study found: `batch`, the experiment's own; `memory`, peaks in bytes, on
the device and on CUDA; `fits`, the largest micro batches; `speed`, images/s; `options`, how many
times as fast as plain; `trainings`, and the images and seconds that each took to the `target`
(null: not reached); `noise`, the critical batch along the first training (null: infinite)."""


def check(details: dict[str, Any]) -> None:
    """Raise ValueError in one line where these are not a study's details."""
    try:
        jsonschema.validate(details, DETAILS)
    except jsonschema.ValidationError as error:
        raise ValueError(f"{error.json_path}: {error.message}") from None


def advice(details: dict[str, Any]) -> list[str]:
    """What follows from a study's details, a sentence or two each."""
    micro, of_micro = best_micro(details)
    batch, of_batch = best_batch(details)
    rest = max(1, batch // micro)
    cut = f"micro {micro}, global {batch}" if batch > micro else f"micro and global {batch}"
    accumulated = f" ({rest} accumulation steps on one device)" if rest > 1 else ""
    return [
        f"Use {cut}{accumulated}.",
        of_micro,
        of_batch,
        *critical(details),
        *options(details),
        *fitting(details),
    ]


def best_micro(details: dict[str, Any]) -> tuple[int, str]:
    """The smallest micro batch that is as fast as any, and why."""
    largest = max(row["micro"] * row["accumulation"] for row in details["speed"])
    sweep = {
        row["micro"]: row["median"]
        for row in details["speed"]
        if row["option"] == PLAIN and row["micro"] * row["accumulation"] == largest
    }
    best = max(sweep.values())
    micro = min(size for size, rate in sweep.items() if rate >= AS_FAST * best)
    peaks = {row["micro"]: row["predicted"] for row in details["memory"] if row["option"] == PLAIN}
    speed = f"{sweep[micro]:,.4g} images/s at a micro batch of {micro}"
    if micro == max(sweep):
        return micro, f"{speed}, the largest that was timed: a larger one may be faster still."
    costs = f"{peaks[micro] / 1e6:,.0f} MB against {peaks[max(sweep)] / 1e6:,.0f} at {max(sweep)}"
    found = "the fastest" if sweep[micro] == best else f"{best:,.4g} at the fastest"
    return micro, f"{speed}, {found}: larger only costs memory, {costs}."


def best_batch(details: dict[str, Any]) -> tuple[int, str]:
    """The smallest global batch that is as soon at the target as any on this device, and why."""
    reached = [row for row in details["trainings"] if row["seconds"] is not None]
    if not reached:
        return details["batch"], f"No training reached a validation loss of {details['target']:g}."
    soonest = min(row["seconds"] for row in reached)
    good = [row for row in reached if AS_FAST * row["seconds"] <= soonest]
    best = min(good, key=lambda row: (row["batch"], row["seconds"]))
    told = (
        f"A global batch of {best['batch']} (learning rate {best['lr']:.3g}) reached the "
        f"validation loss {details['target']:.4g} after {best['images']:,.0f} images, which take "
        f"{best['seconds']:,.3g} s here"
    )
    others = [
        f"{row['batch']} ({row['rule']}) "
        + ("did not" if row["seconds"] is None else f"took {row['seconds']:,.3g} s")
        for row in details["trainings"]
        if row is not best
    ]
    return best["batch"], f"{told}; {', '.join(others)}." if others else f"{told}."


def critical(details: dict[str, Any]) -> list[str]:
    """What the gradient noise scale says of more devices."""
    known = [row for row in details["noise"] if row["pages"] is not None]
    if not known:
        return ["The gradient could not be told from its noise: the critical batch is not known."]
    last = known[-1]
    high = "no upper end" if last["high"] is None else f"{last['high']:,.0f}"
    interval = f"95%: {last['low']:,.0f} - {high}"
    return [
        f"The critical batch was about {last['pages']:,.0f} pages ({interval}) after "
        f"{last['images']:,} images, and {known[0]['pages']:,.0f} after "
        f"{known[0]['images']:,}: with more devices a global batch up to about that saves time; "
        "beyond it more pages a step cost images and save few steps."
    ]


def options(details: dict[str, Any]) -> list[str]:
    """Which options are worth switching on."""
    peaks = {(row["micro"], row["option"]): row["predicted"] for row in details["memory"]}
    sentences = []
    for row in details["options"]:
        micro, option = row["micro"], row["option"]
        verdict = "which may be chance"
        if row["q1"] > 1:
            verdict = "worth it"
        elif row["q3"] < 1:
            verdict = "slower"
        told = f"{option}: {row['median']:.2f} times as fast, {verdict}"
        if (micro, option) in peaks:
            told += f", in {peaks[micro, option] / peaks[micro, PLAIN]:.2f} of the memory"
        sentences.append(f"{told}.")
    return sentences


def fitting(details: dict[str, Any]) -> list[str]:
    """What sizes of memory hold, and how good predictions were where they could be checked."""
    sentences = []
    for option in dict.fromkeys(row["option"] for row in details["fits"]):
        rows = [row for row in details["fits"] if row["option"] == option]
        held = ", ".join(f"{row['micro']:,} in {row['gib']} GiB" for row in rows)
        sentences.append(f"Largest micro batches on CUDA, tallest pages, {option}: {held}.")
    checked = [row for row in details["memory"] if row["measured"] is not None]
    if checked:
        shares = [row["predicted"] / row["measured"] for row in checked]
        sentences.append(
            f"Predicted peaks were {min(shares):.3f} to {max(shares):.3f} of those measured here."
        )
    return sentences
