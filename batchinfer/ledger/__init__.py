"""What is done: the durable state of a job on its output store, and the one decision about each shard."""
