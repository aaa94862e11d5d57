"""Losses and the objective."""
