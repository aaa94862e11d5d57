"""The atlas: a folder of static files that shows all pages of some shards in a browser."""
