"""Parts of the batch-size study."""
