"""The optional part inside the user's process. Standard library only."""
