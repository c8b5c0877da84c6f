"""How much of an old task methods keep while they learn a new one: tasks x methods x rates x seeds."""
