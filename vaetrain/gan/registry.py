"""Discriminators, GAN losses and discriminator regularizers by the names that settings use.

A new one is one class or object in its module and one line here; the settings offer it then. Paths
are strings because settings are read before torch is imported.
"""

from __future__ import annotations

import pkgutil
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """A choice of a setting.

    Attributes:
        path: `module:object`, imported when it is used.
        summary: for the setting's help text.
    """

    path: str
    summary: str

    def load(self) -> Any:
        """Import the object."""
        return pkgutil.resolve_name(self.path)


DISCRIMINATORS = {
    "light": Entry(
        "vaetrain.gan.discriminators:LightDiscriminator",
        "two convolutions and one logit per page",
    ),
    "patch": Entry("vaetrain.gan.discriminators:PatchDiscriminator", "PatchGAN with spectral norm"),
}
LOSSES = {
    "hinge": Entry("vaetrain.gan.losses:HINGE", "bounded at logits of 1 and -1"),
    "nonsaturating": Entry("vaetrain.gan.losses:NONSATURATING", "cross-entropy"),
    "leastsquares": Entry("vaetrain.gan.losses:LEAST_SQUARES", "targets 1 and 0"),
}
REGULARIZERS = {
    "r1": Entry("vaetrain.gan.regularizers:R1", "gradient at the original pages"),
    "lecam": Entry("vaetrain.gan.regularizers:LECAM", "distance from moving means of logits"),
}
NO_REGULARIZER = "none"


def summaries(entries: dict[str, Entry]) -> str:
    """Return `name: summary` of all entries, for a help text."""
    return "; ".join(f"{name}: {entry.summary}" for name, entry in entries.items())
