"""The one error of a comparison that cannot go on."""


class CompareError(RuntimeError):
    """A comparison that cannot go on: what is wrong, where, and what to do. What was finished is kept."""
