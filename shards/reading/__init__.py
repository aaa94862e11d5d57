"""Reading shards: sample order, batches, reader processes, drawing."""
