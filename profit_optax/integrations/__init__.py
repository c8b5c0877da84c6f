"""PROFIT in training loops of other libraries: one module a library, imported only by those who have it."""
