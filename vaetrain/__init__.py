"""The trainer: a VAE of wireframes on one device or many."""
