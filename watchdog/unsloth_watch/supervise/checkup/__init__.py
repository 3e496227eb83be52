"""``doctor``: what would go wrong with a launch, looked for before it. One module a group of findings."""
