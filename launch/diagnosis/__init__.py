"""Diagnosis of a machine: its hardware and software, and short real checks of the trainer on it."""
