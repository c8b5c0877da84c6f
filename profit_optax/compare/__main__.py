"""`python -m profit_optax.compare FILE.py:TASK`."""

from profit_optax.compare.command import run

if __name__ == "__main__":
    run()
