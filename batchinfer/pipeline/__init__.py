"""Steps over rows: which rows the model sees together."""
