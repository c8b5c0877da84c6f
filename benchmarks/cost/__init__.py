"""What a step of PROFIT costs in time, memory and compilation, beside what a user would pick instead."""
