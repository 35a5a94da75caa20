"""Cheaper numbers: recipes that bring a loaded module to another precision."""
