"""Fit the prior of a finished run, anew or for the first time.

    python -m vaetrain.fit_prior RUN --shards DIR [prior.steps=N ...]

A training fits its prior when it ends. This command is for runs of older versions and for other
settings or pages. It encodes the training pages of the shards, fits a flow to their latents, and
writes it into the run's `final/`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from shards import cli
from shards.errors import UserError


def main() -> int:
    """Run the command; return the exit status."""
    parser = cli.Parser(
        prog="vaetrain.fit_prior",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory of a finished run")
    parser.add_argument("--shards", type=cli.location, required=True, help="folder or address")
    parser.add_argument(
        "settings", nargs="*", metavar="prior.KEY=VALUE", help="settings of the fit"
    )
    fit(parser.parse_intermixed_args())  # settings may follow options
    return 0


def fit(arguments: argparse.Namespace) -> None:
    """Fit the prior and write it."""
    # Local imports: torch takes seconds to import, and `--help` must not wait for it.
    from vaetrain.artifacts.final_model import CONFIG, add_prior
    from vaetrain.config.experiment import override
    from vaetrain.inference.trained_model import TrainedModel
    from vaetrain.training.prior_fit import fit_prior

    final = arguments.run / "final"
    if not (final / CONFIG).exists():
        raise UserError(f"{arguments.run}: is not the directory of a finished run (no final/)")
    foreign = [text for text in arguments.settings if not text.startswith("prior.")]
    if foreign:
        raise UserError(f"{foreign[0]}: only settings of the prior can be given, prior.KEY=VALUE")
    trained = TrainedModel(arguments.run)
    experiment = override(trained.experiment, arguments.settings)
    data = trained.open_shards(arguments.shards)
    prior = fit_prior(
        trained.model,
        data,
        data.select("train"),
        experiment.prior,
        trained.engine,
        max_height=experiment.data.max_height,
        seed=experiment.train.seed,
    )
    add_prior(final, prior)
    print(f"{final}: prior fitted to {len(prior.heights)} pages")
    trained.report_threads()


if __name__ == "__main__":
    cli.run("vaetrain.fit_prior", main)
