"""Details of a batch-size study's record, and the advice derived from them."""

from __future__ import annotations

from typing import Any

import jsonschema

from benchmarks.support.batch_size.setups import PLAIN

AS_FAST = 0.95  # of the best: a smaller gain does not justify a larger batch


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
"""JSON Schema of `details`:

- `batch`: the experiment's own global batch.
- `memory`: peaks in bytes, on the device and on CUDA.
- `fits`: the largest micro batch for each size of memory.
- `speed`: images/s.
- `options`: speed relative to the plain setup.
- `target`: a validation loss.
- `trainings`: images and seconds that each took to the target; null: not reached.
- `noise`: the critical batch along the first training; null: infinite.
"""


def check(details: dict[str, Any]) -> None:
    """Raise ValueError, in one line, if details do not follow `DETAILS`."""
    try:
        jsonschema.validate(details, DETAILS)
    except jsonschema.ValidationError as error:
        raise ValueError(f"{error.json_path}: {error.message}") from None


def advice(details: dict[str, Any]) -> list[str]:
    """Return the conclusions from a study's details, one or two sentences each."""
    micro, micro_reason = best_micro(details)
    batch, batch_reason = best_batch(details)
    accumulation = max(1, batch // micro)
    sizes = f"micro {micro}, global {batch}" if batch > micro else f"micro and global {batch}"
    note = f" ({accumulation} accumulation steps on one device)" if accumulation > 1 else ""
    return [
        f"Use {sizes}{note}.",
        micro_reason,
        batch_reason,
        *critical(details),
        *options(details),
        *fitting(details),
    ]


def best_micro(details: dict[str, Any]) -> tuple[int, str]:
    """Return the smallest micro batch within 5% of the highest speed, and the reason."""
    largest = max(row["micro"] * row["accumulation"] for row in details["speed"])
    sweep = {
        row["micro"]: row["median"]
        for row in details["speed"]
        if row["option"] == PLAIN and row["micro"] * row["accumulation"] == largest
    }
    best = max(sweep.values())
    micro = min(size for size, rate in sweep.items() if rate >= AS_FAST * best)
    peaks = {row["micro"]: row["predicted"] for row in details["memory"] if row["option"] == PLAIN}
    speed = f"A micro batch of {micro} has {sweep[micro]:,.4g} images/s"
    if micro == max(sweep):
        return micro, f"{speed}. It is the largest that was timed; a larger one may be faster."
    costs = (
        f"{peaks[max(sweep)] / 1e6:,.0f} MB at {max(sweep)} instead of {peaks[micro] / 1e6:,.0f}"
    )
    rank = "the fastest" if sweep[micro] == best else f"the fastest {best:,.4g}"
    return micro, f"{speed}, {rank}. A larger one only needs more memory: {costs}."


def best_batch(details: dict[str, Any]) -> tuple[int, str]:
    """Return the smallest global batch within 5% of the shortest time to the target, and why."""
    reached = [row for row in details["trainings"] if row["seconds"] is not None]
    if not reached:
        return details["batch"], (
            f"No training reached a validation loss of {details['target']:g}, so the experiment's "
            "own global batch is kept. Give more --images or a higher --target."
        )
    shortest = min(row["seconds"] for row in reached)
    good = [row for row in reached if AS_FAST * row["seconds"] <= shortest]
    best = min(good, key=lambda row: (row["batch"], row["seconds"]))
    reason = (
        f"A global batch of {best['batch']} (learning rate {best['lr']:.3g}) reached the "
        f"validation loss {details['target']:.4g} after {best['images']:,.0f} images, which take "
        f"{best['seconds']:,.3g} s on this machine"
    )
    others = [
        f"{row['batch']} ({row['rule']}) "
        + ("did not" if row["seconds"] is None else f"took {row['seconds']:,.3g} s")
        for row in details["trainings"]
        if row is not best
    ]
    return best["batch"], f"{reason}; {', '.join(others)}." if others else f"{reason}."


def count(pages: float) -> str:
    """Return a number of pages as text; small ones with a decimal, since 0 pages is no batch."""
    return f"{pages:,.0f}" if pages >= 10 else f"{pages:.1f}" if pages >= 0.1 else "under 0.1"


def critical(details: dict[str, Any]) -> list[str]:
    """Return the conclusion from the gradient noise scale for training on more devices."""
    known = [row for row in details["noise"] if row["pages"] is not None]
    if not known:
        return [
            "The critical batch is unknown: the gradient is not distinguishable from its noise. "
            "Give more --noise-pages."
        ]
    first, last = known[0], known[-1]
    high = "no upper bound" if last["high"] is None else count(last["high"])
    interval = f"95%: {count(last['low'])} - {high}"
    return [
        f"The critical batch was about {count(last['pages'])} pages ({interval}) after "
        f"{last['images']:,} images, and {count(first['pages'])} after {first['images']:,}. "
        "With more devices a global batch up to about that size saves time; a larger one needs "
        "more images and saves few steps."
    ]


def options(details: dict[str, Any]) -> list[str]:
    """Return the speed and memory of each option relative to the plain setup."""
    peaks = {(row["micro"], row["option"]): row["predicted"] for row in details["memory"]}
    sentences = []
    for row in details["options"]:
        micro, option = row["micro"], row["option"]
        conclusion = "within noise"
        if row["q1"] > 1:
            conclusion = "faster"
        elif row["q3"] < 1:
            conclusion = "slower"
        sentence = f"{option}: {row['median']:.2f} x the plain speed ({conclusion})"
        if (micro, option) in peaks:
            share = peaks[micro, option] / peaks[micro, PLAIN]
            sentence += f", {share:.2f} x the memory"
        sentences.append(f"{sentence}.")
    return sentences


def fitting(details: dict[str, Any]) -> list[str]:
    """Return the largest micro batches by memory size, and the accuracy of the predictions."""
    sentences = []
    for option in dict.fromkeys(row["option"] for row in details["fits"]):
        rows = [row for row in details["fits"] if row["option"] == option]
        sizes = ", ".join(f"{row['micro']:,} in {row['gib']} GiB" for row in rows)
        sentences.append(f"Largest micro batches on CUDA, tallest pages, {option}: {sizes}.")
    measured = [row for row in details["memory"] if row["measured"] is not None]
    if measured:
        ratios = [row["predicted"] / row["measured"] for row in measured]
        sentences.append(
            f"Predicted peaks were {min(ratios):.3f} to {max(ratios):.3f} of those measured on "
            "this machine."
        )
    return sentences
