"""What will be done: the pinned input, the shards and windows, and the fingerprint that a resume must match."""
