"""Frozen values that cross the borders between layers. Values only: no clock, no operating system, no logic of a layer."""
