"""Proof from the files alone that every planned row stands in the output exactly once, or what speaks against it."""
