"""When PROFIT helps: its gain on the digits task by what the theory says matters, one factor varied at a time."""
