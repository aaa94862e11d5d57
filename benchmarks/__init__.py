"""Benchmarks, one command each; README.md describes the method common to all."""
