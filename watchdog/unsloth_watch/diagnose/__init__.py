"""From evidence to a cause, a culprit and remedies. Pure; one rule a module."""
