"""Recorded runs and their results."""
