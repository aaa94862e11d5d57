"""Settings of an experiment, and the command line of the trainer."""
