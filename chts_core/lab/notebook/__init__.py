"""The staged notebooks: how they run, and what they stand on."""
