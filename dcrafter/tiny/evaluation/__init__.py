"""The built-in model's own cases and measures."""
