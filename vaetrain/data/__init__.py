"""Training and validation pages as batches."""
