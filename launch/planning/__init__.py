"""Prediction of a large run from settings, model shapes and the index: nothing is trained."""
