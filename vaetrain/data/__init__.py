"""Training and validation pages as batches of one rank."""
