import importlib.util
import os

import pytest

if not os.environ.get("PROFIT_TARGETS"):
    raise pytest.UsageError(
        "tests/targets compiles for devices that are not here: JAX_PLATFORMS=cpu PROFIT_TARGETS=1 pytest tests/targets"
    )
if importlib.util.find_spec("libtpu") is None or importlib.util.find_spec("jax_plugins.xla_cuda13") is None:
    raise pytest.UsageError("tests/targets takes the compilers of the extra `targets`: make targets-test")
