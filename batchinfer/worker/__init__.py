"""One shard: read, prepare, infer, check, write."""
