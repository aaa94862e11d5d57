"""The VAE and its layers."""
