"""The VAE, its exchangeable parts and its layers."""
