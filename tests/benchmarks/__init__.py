"""Benchmarks: every number is a ratio of programs run in turn on one machine. Nothing here asserts on time."""
