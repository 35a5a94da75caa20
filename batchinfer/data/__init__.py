"""Rows in and out: footers, reading, filtering, parts, dead letters."""
