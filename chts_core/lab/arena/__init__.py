"""An arena for ideas: your own method is checked, and then raced against the nine."""
