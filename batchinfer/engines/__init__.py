"""Kinds of model behind one protocol; `registry` opens them by name."""
