"""Training of a run: set-up, step, loop and training state."""
