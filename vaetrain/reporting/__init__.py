"""Log and figures of a run; `run_log.py` writes metrics.jsonl and feeds the trackers."""
