"""The arena checks your own method and races it against the nine methods of the paper."""
