"""The loop, the incident from suspicion to relaunch, the restart policy, the wiring."""
