"""Dear evidence on demand: stacks, waits, locks, caches. Every step has a deadline and says what is missing."""
