"""What looks at a run, or carries it elsewhere."""
