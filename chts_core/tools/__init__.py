"""Tools that look at a run, or carry it elsewhere."""
