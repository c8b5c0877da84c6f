"""Versions and machine, without which numbers mean little."""

import os
import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import jax

PACKAGES = ("profit-optax", "jax", "optax")


def environment(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """What a comparison ran with and on."""
    device = jax.devices()[0]
    return {
        "versions": versions(packages),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, {len(jax.devices())} x "
        f"{device.device_kind}",
    }


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """The versions of Python and of packages, by default those that decide what a comparison computes."""
    return {"python": platform.python_version()} | {name: _version(name) for name in packages}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
