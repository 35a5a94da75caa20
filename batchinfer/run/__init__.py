"""The loop: from a plan to a manifest."""
