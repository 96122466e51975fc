"""Recorded runs, and what they show."""
