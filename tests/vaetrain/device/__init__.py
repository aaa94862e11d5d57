"""Proofs of device code without a GPU; see docs/engines.md for their limits."""
