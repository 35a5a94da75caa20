"""The page of a run: one self-contained file of HTML."""
