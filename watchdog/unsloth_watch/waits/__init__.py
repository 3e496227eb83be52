"""Who waits for whom: pure, below the judge (which proves with it) and the diagnosis (which blames with it)."""
