"""Warm-up outside of proximity (the paper's Table 3): digits models that are to learn far-away tasks."""
