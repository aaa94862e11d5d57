"""VAE-GAN: discriminators, GAN losses, regularizers and their training."""
