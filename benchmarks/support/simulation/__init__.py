"""Training with hundreds of ranks in one process; only the network is not the trainer's own."""
