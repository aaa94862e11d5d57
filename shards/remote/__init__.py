"""Shards on a server: access with retries, and the local cache."""
