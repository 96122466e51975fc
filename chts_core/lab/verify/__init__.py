"""Checks: conformance of the methods, drills, wrong files, and injected bugs."""
