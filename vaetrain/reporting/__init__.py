"""Logs, trackers and figures of a run."""
