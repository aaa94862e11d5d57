"""A final model as MLflow loads it: code, run by MLflow, which reads the files of `final/`."""

from __future__ import annotations

from typing import Any

import mlflow
import numpy as np
import torch

from vaetrain.artifacts.final_model import load_model


class WireframeEncoder(mlflow.pyfunc.PythonModel):
    """Encoder of pages to latents."""

    def load_context(self, context: Any) -> None:
        """Load the model from the artifact `final`."""
        self.model = load_model(context.artifacts["final"])

    # Without type hints: MLflow would derive a signature from them, in place of the given one.
    def predict(self, context, model_input, params=None):
        """Encode pages, float32 (B, 1, H, W) in [0, 1], to their `mu`, float32 (B, D).

        All rows belong to the page. Of a spatial latent see `VAE.embed`.
        """
        pages = torch.from_numpy(np.asarray(model_input, np.float32))
        heights = torch.full((len(pages),), pages.shape[2])
        with torch.no_grad():
            mu, _ = self.model.encode(pages, heights)
            return self.model.embed(mu, heights).numpy()


mlflow.models.set_model(WireframeEncoder())
