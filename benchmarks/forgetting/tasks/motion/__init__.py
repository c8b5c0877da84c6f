"""Where people, cyclists and cars go next: real trajectories, and one kind learnt after another."""
