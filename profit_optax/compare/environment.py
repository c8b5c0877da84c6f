"""Versions and machine, without which numbers mean little."""

import os
import platform
from importlib import metadata

import jax


def environment() -> dict[str, object]:
    """What a comparison ran with and on."""
    device = jax.devices()[0]
    return {
        "versions": versions(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, {len(jax.devices())} x "
        f"{device.device_kind}",
    }


def versions() -> dict[str, str]:
    """The versions that decide what a comparison computes."""
    return {"python": platform.python_version()} | {name: _version(name) for name in ("profit-optax", "jax", "optax")}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
