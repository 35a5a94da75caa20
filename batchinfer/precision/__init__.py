"""Cheaper numbers: recipes that bring a loaded module to another precision, one file a family."""
