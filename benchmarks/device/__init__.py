"""What the package does, and costs, on the accelerator of a machine."""
