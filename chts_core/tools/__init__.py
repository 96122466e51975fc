"""Tools that plan a run, check it, average its weights, or connect it to other libraries."""
