"""The mesh that a test computes on, in every version of JAX."""

import jax

# JAX before 0.7.1 has it under another name.
set_mesh = jax.set_mesh if hasattr(jax, "set_mesh") else jax.sharding.use_mesh
