"""Short scripts, one idea each, to copy from. Run one with `python examples/plain_loop.py`."""
