"""Engines: how a model is distributed over processes."""
