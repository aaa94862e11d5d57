"""A prior of the latent vectors, fitted to the pages of a trained encoder."""
