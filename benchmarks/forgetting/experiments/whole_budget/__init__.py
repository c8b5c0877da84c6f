"""A whole fine-tuning of a converged model: the new task at its end, and what is left of the old one."""
