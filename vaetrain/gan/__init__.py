"""The GAN part of a VAE-GAN."""
