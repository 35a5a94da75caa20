"""Where workers run: in this process, or as actors on Ray. `protocol.Executor` is all that a runner knows of either."""
