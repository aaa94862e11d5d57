"""Shards on a server: client with retries, and the local cache."""
