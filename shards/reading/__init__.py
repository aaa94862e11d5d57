"""Reader of shards: sample order, batches, reader processes, drawing."""
