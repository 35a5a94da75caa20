"""What this machine offers, and what a job lacks on it."""
