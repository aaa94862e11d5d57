"""Table of the augmentation operations. Imports no torch.

To add an operation, write its function and add one row to `TABLE`: at the place where it has to be
applied, with the next free `slot`. The row names the function by dotted path, because settings are
checked before torch is imported. Policies, policy files, the contact sheet and the policy search
read the table, so nothing else has to be changed.
"""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Kind(Enum):
    """Stage of the pipeline that applies an operation, and the signature of its function.

    `params` are the operation's `OpParameters` for the batch, `page` is the size of each page as
    width and height in pixels, float64.
    """

    BOX_EDIT = "(PageBoxes, params) -> edges (T, 4); pages that are pictures are left unchanged"
    ADDED_BOXES = "(uniforms (B, places, 8), page (B, 1, 2)) -> edges (B, places, n, 4)"
    AXIS_ALIGNED = "(params, page (B, 2)) -> homographies (B, 3, 3) that keep boxes upright"
    PROJECTIVE = "(params, page (B, 2)) -> any homographies (B, 3, 3)"
    BRIGHTNESS = "(params) -> factor (B,) on every value"
    CONTRAST = "(params) -> factor (B,) on the distance from the page's mean"
    CORRUPTION = "(images, params, keys (B,), heights (B,)) -> the images, changed in place"


@dataclass(frozen=True)
class Op:
    """Augmentation operation; at strength 0 it changes nothing.

    Attributes:
        slot: index of the operation's random draws. Never change or reuse one: another slot gives
            the operation other draws. Slots are 0, 1, 2, ... without gaps.
        kind: stage of the pipeline. `CORRUPTION` changes the model's input only, not its target.
        function: dotted path of the function; `kind` says how it is called.
        meaning: meaning of the strength, with its unit.
        full: strength at level 1 of `randaugment` and `trivialaugment`.
        maximum: largest strength allowed. For `ADDED_BOXES`, the number of places on a page, too.
        is_graded: whether a greater strength changes more; otherwise any strength above 0 is the
            same.
    """

    name: str
    slot: int
    kind: Kind
    function: str
    meaning: str
    full: float
    maximum: float
    is_graded: bool = True

    @property
    def corrupts(self) -> bool:
        """Whether the operation changes the model's input only; the target stays clean."""
        return self.kind is Kind.CORRUPTION

    @property
    def place_in_kind(self) -> int:
        """Index by slot among the operations of its kind, which numbers their random streams."""
        return sum(op.kind is self.kind and op.slot < self.slot for op in TABLE)


# In order of application: of the pipeline's stages, and of the operations within a stage.
TABLE = (
    Op(
        "jitter",
        slot=4,
        kind=Kind.BOX_EDIT,
        function="vaetrain.augmentation.boxes.jitter",
        meaning="farthest each edge of a box moves, share of the page's width",
        full=0.02,
        maximum=0.5,
    ),
    Op(
        "dropout",
        slot=5,
        kind=Kind.BOX_EDIT,
        function="vaetrain.augmentation.boxes.dropout",
        meaning="share of the boxes left out",
        full=0.3,
        maximum=1.0,
    ),
    Op(
        "lines",
        slot=6,
        kind=Kind.ADDED_BOXES,
        function="vaetrain.augmentation.added_boxes.lines",
        meaning="lines added on average",
        full=4.0,
        maximum=4.0,
    ),
    Op(
        "boxes",
        slot=7,
        kind=Kind.ADDED_BOXES,
        function="vaetrain.augmentation.added_boxes.boxes",
        meaning="boxes added on average",
        full=4.0,
        maximum=4.0,
    ),
    Op(
        "text",
        slot=8,
        kind=Kind.ADDED_BOXES,
        function="vaetrain.augmentation.added_boxes.text",
        meaning="blocks of text-like rows added on average",
        full=2.0,
        maximum=2.0,
    ),
    Op(
        "flip",
        slot=0,
        kind=Kind.AXIS_ALIGNED,
        function="vaetrain.augmentation.warp.flip",
        meaning="mirror left and right, at any strength above 0",
        full=1.0,
        maximum=1.0,
        is_graded=False,
    ),
    Op(
        "scale",
        slot=2,
        kind=Kind.AXIS_ALIGNED,
        function="vaetrain.augmentation.warp.scale",
        meaning="largest change of size about the centre: 0.1 is 0.9 to 1.1 times",
        full=0.3,
        maximum=0.9,
    ),
    Op(
        "translate",
        slot=1,
        kind=Kind.AXIS_ALIGNED,
        function="vaetrain.augmentation.warp.translate",
        meaning="largest shift along each axis, share of the page's side",
        full=0.2,
        maximum=1.0,
    ),
    Op(
        "crop",
        slot=3,
        kind=Kind.AXIS_ALIGNED,
        function="vaetrain.augmentation.warp.crop",
        meaning="largest share of both sides cut away; the rest is enlarged to fill the page",
        full=0.3,
        maximum=0.9,
    ),
    Op(
        "rotate",
        slot=9,
        kind=Kind.PROJECTIVE,
        function="vaetrain.augmentation.warp.rotate",
        meaning="largest rotation in either direction, degrees",
        full=15.0,
        maximum=45.0,
    ),
    Op(
        "perspective",
        slot=10,
        kind=Kind.PROJECTIVE,
        function="vaetrain.augmentation.warp.perspective",
        meaning="farthest a corner moves inward, share of half the side",
        full=0.5,
        maximum=0.9,
    ),
    Op(
        "brightness",
        slot=11,
        kind=Kind.BRIGHTNESS,
        function="vaetrain.augmentation.pixels.random_factor",
        meaning="largest distance from 1 of the factor on every value",
        full=0.5,
        maximum=1.0,
    ),
    Op(
        "contrast",
        slot=12,
        kind=Kind.CONTRAST,
        function="vaetrain.augmentation.pixels.random_factor",
        meaning="largest distance from 1 of the factor on the distance from the page's mean",
        full=0.5,
        maximum=1.0,
    ),
    Op(
        "tone",
        slot=13,
        kind=Kind.CONTRAST,
        function="vaetrain.augmentation.pixels.random_factor",
        meaning="as contrast, drawn independently of it: domain randomisation",
        full=0.5,
        maximum=1.0,
    ),
    Op(
        "noise",
        slot=14,
        kind=Kind.CORRUPTION,
        function="vaetrain.augmentation.pixels.noise",
        meaning="standard deviation of the Gaussian noise",
        full=0.1,
        maximum=1.0,
    ),
    Op(
        "salt_pepper",
        slot=15,
        kind=Kind.CORRUPTION,
        function="vaetrain.augmentation.pixels.salt_pepper",
        meaning="share of the pixels set to 0 or 1",
        full=0.1,
        maximum=1.0,
    ),
    Op(
        "erase",
        slot=16,
        kind=Kind.CORRUPTION,
        function="vaetrain.augmentation.pixels.erase",
        meaning="largest share of the page in the erased rectangle",
        full=0.33,
        maximum=1.0,
    ),
)

OPS = {op.name: op for op in sorted(TABLE, key=lambda op: op.slot)}
"""The operations by name, in order of their slots."""

CHOICES = tuple(name for name, op in OPS.items() if not op.corrupts)
"""The operations that `randaugment` and `trivialaugment` choose from."""


def ops_of_kind(kind: Kind) -> tuple[Op, ...]:
    """Return the operations of a kind, in order of application."""
    return tuple(op for op in TABLE if op.kind is kind)


@functools.cache
def load_function(op: Op) -> Callable[..., Any]:
    """Import the function of an operation."""
    return pkgutil.resolve_name(op.function)
