"""Senses: cheap and periodic. Each answers None when it cannot know, and none can stop another."""
