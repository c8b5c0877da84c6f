import jax
import pytest

if jax.device_count() < 8:
    raise pytest.UsageError(
        "tests/multidevice needs eight devices: "
        "XLA_FLAGS=--xla_force_host_platform_device_count=8 pytest tests/multidevice"
    )
