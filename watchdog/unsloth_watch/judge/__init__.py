"""From samples to progress evidence to a verdict. Pure: no clock, no operating system."""
