"""Checks: conformance of the methods, drills, wrong files, injected bugs."""
