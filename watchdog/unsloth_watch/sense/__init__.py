"""Cheap periodic sensing: one tick reads the job; a sensor answers None when it cannot know."""
