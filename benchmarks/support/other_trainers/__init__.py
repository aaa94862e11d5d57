"""Peers: other libraries and plain scripts that do the same work as this project."""
