"""Settings of the whole suite.

Some tests need another process-wide setting and a process of their own:

    JAX_ENABLE_X64=1 pytest tests/x64
    XLA_FLAGS=--xla_force_host_platform_device_count=8 pytest tests/multidevice

Those of programs compiled for other devices want packages of their own, the extra `targets`:

    JAX_PLATFORMS=cpu PROFIT_TARGETS=1 pytest tests/targets

Those of the built site want Chromium, and the site in out/site, which `make docs-browser` sees to:

    PROFIT_BROWSER=1 pytest tests/browser

A process collects the tests of its own setting only. Named without their setting, those directories are an error.
"""

import os
from pathlib import Path

import hypothesis
import jax
import pytest

HERE = Path(__file__).parent

# A test that needs a broadcast between ranks writes it out: silent ones hide mistakes.
jax.config.update("jax_numpy_rank_promotion", "raise")

# The same examples in every run, and a hundred where a test does not say. A failure prints the decorator to replay it.
hypothesis.settings.register_profile("suite", derandomize=True, print_blob=True, deadline=None, database=None)
# `make properties`: fifty times as many, others in every run, which `--hypothesis-seed` repeats.
hypothesis.settings.register_profile(
    "properties",
    max_examples=5000,
    print_blob=True,
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("suite")


def setting() -> str:
    """The directory whose tests this process is set up for; "" for those that need no setting."""
    if jax.config.read("jax_enable_x64"):
        return "x64"
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return "multidevice"
    return next((name for name in ("targets", "browser") if os.environ.get(f"PROFIT_{name.upper()}")), "")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    if not collection_path.is_relative_to(HERE) or collection_path == HERE:
        return None
    top = collection_path.relative_to(HERE).parts[0]
    needed = top if top in ("x64", "multidevice", "targets", "browser") else ""
    if needed == setting() or (collection_path.suffix != ".py" and not needed):
        return None
    return True


@pytest.fixture
def count_traces():
    """Wraps a function so that `.traces` counts how often Python, and so a trace, runs it."""

    def wrap(function):
        def counted(*args, **kwargs):
            counted.traces += 1
            return function(*args, **kwargs)

        counted.traces = 0
        return counted

    return wrap


@pytest.fixture
def compilations():
    """The programs that were compiled since the fixture was made."""
    counted = []
    listener = lambda name, *_, **__: counted.append(name) if "backend_compile" in name else None  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    yield counted
    # Before 0.8.1 JAX cannot: there the list grows on, and is nobody's.
    if hasattr(jax.monitoring, "unregister_event_duration_listener"):
        jax.monitoring.unregister_event_duration_listener(listener)
