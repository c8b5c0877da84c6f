"""Comparisons: tasks, methods and sizes, and the sections of their reports."""
