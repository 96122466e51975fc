"""Check methods against their specifications, and cause deliberate faults: killed runs, wrong files and bugs."""
