"""When PROFIT helps: its gain on a task by what the theory says matters, one factor varied at a time."""
