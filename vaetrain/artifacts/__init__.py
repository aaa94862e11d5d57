"""Files of a run: run directory and metrics, checkpoints, final model and its model card."""
