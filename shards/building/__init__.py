"""Building shards: sources to pages, deduplication, splits, writing."""
