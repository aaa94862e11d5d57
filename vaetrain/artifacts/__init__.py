"""Files of a run: checkpoints, run directory, final model."""
