"""Telling what a run did."""
