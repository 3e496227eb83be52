"""Launch, guard, relay, terminate, mend."""
