import jax
import pytest

if not jax.config.read("jax_enable_x64"):
    raise pytest.UsageError("tests/x64 needs 64-bit types: JAX_ENABLE_X64=1 pytest tests/x64")
