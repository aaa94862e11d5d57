"""Archetypes: clusters of pages in the embedding, their number, their quality, a sheet of them."""
