"""ImageNet: a network with public weights, and what it is to learn from a thousand examples."""
