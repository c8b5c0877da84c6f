"""Runs tests in a process that was forked for it, on a module that was changed or that tells what it runs."""

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest

ROOT = Path(__file__).parents[2]
# What a setting of the process adds, beside `UNOPTIMIZED`: what a test runs once need not be fast.
UNOPTIMIZED = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
SETTINGS = {
    "": {"XLA_FLAGS": UNOPTIMIZED},
    "multidevice": {"XLA_FLAGS": f"--xla_force_host_platform_device_count=8 {UNOPTIMIZED}"},
    "x64": {"XLA_FLAGS": UNOPTIMIZED, "JAX_ENABLE_X64": "1"},
}
# So much memory a mutant may ask for, in bytes: one may loop for ever.
MEMORY = 12 << 30


class Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules of the package, and executes the trees that it was given for some of them."""

    def __init__(self, trees: dict[str, ast.Module]):
        self.trees = trees

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in self.trees:
            return None
        return importlib.util.spec_from_loader(name, self, origin=str(path_of(name)))

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: Any) -> None:
        module.__file__ = str(path_of(module.__name__))
        exec(compile(self.trees[module.__name__], module.__file__, "exec"), module.__dict__)


def path_of(module: str) -> Path:
    return ROOT / f"{module.replace('.', '/')}.py"


def forked(run: Callable[[], int], setting: str, log: Path, limit_s: float) -> int | None:
    """The exit code of `run` in a process of its own that prints to `log`; None if it took too long and was ended."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            os.setsid()
            os.environ.update(SETTINGS[setting])
            # JAX was imported before the environment said so.
            jax.config.update("jax_enable_x64", setting == "x64")
            # What a change leaves as it was is compiled once for all mutants.
            jax.config.update("jax_compilation_cache_dir", str(log.parent / "programs"))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
            jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            code = run()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def run_tests(trees: dict[str, ast.Module], arguments: list[str], plugins: list[Any]) -> int:
    """Pytest on a package some of whose modules are changed."""
    sys.meta_path.insert(0, Changed(trees))
    # Neither plugins nor rewritten assertions: most of these runs end within a second or two.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    fixed = ["--quiet", "--no-header", "--tb=line", "--assert=plain", "-p", "no:cacheprovider"]
    return int(pytest.main([*fixed, *arguments], plugins=plugins))
