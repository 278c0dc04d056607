"""Runs a model over cases and reports what it measures."""
