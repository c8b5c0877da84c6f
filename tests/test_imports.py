"""Imports run one way: docs/modules.md says who may import whom, and every import of the package is held to it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import profit_optax

ROOT = Path(__file__).parent.parent
PACKAGE = Path(profit_optax.__file__).parent
# Whoever imports these needs an extra.
OPTIONAL = {
    "flax": {"integrations.linen", "integrations.nnx"},
    "equinox": {"integrations.equinox"},
    "matplotlib": {"compare", "recording"},
    "rich": {"compare"},
    "scipy": {"compare"},
    "typer": {"compare"},
    "sklearn": set(),
    "orbax": set(),
}


def allowed():
    """Module by module, what the table says that it may import."""
    text = (ROOT / "docs" / "modules.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.]+)` \| [^|]+ \| ([^|]*)\|$", text, flags=re.MULTILINE)
    return {module: set(re.findall(r"`([\w.]+)`", names)) for module, names in rows}


def module_of(path):
    """How the table calls the module of a file."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "compare" if parts[0] == "compare" else ".".join(parts)


def imports(path):
    """Every imported module of a file, in functions too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            # `from profit_optax import _checks` imports a module, `from profit_optax import profit` a name.
            packages = ("profit_optax", "benchmarks.forgetting")
            found += [f"{node.module}.{alias.name}" for alias in node.names] if node.module in packages else []
            found += [] if node.module == "profit_optax" else [node.module]
    return found


def imported_by():
    """Module by module, what it imports of this package, as the table calls it."""
    found = {}
    for path in FILES:
        names = found.setdefault(module_of(path), set())
        for name in imports(path):
            if name == "profit_optax":
                names.add(name)
            elif name.startswith("profit_optax."):
                name = name.removeprefix("profit_optax.")
                names.add("compare" if name.startswith("compare") else name)
    return found


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__init__.py" or path.parent.name == "methods"]
ALL_FILES = sorted(PACKAGE.rglob("*.py"))


def test_every_module_is_in_the_table_and_every_row_is_a_module():
    assert allowed().keys() == {module_of(path) for path in FILES}


def test_modules_import_what_the_table_allows_and_all_of_it():
    assert imported_by() == allowed()


def test_the_table_has_no_way_back():
    above = set()
    for module, names in allowed().items():
        assert names - {module} <= above | {"profit_optax"}, f"{module} imports what stands below it"
        above.add(module)


@pytest.mark.parametrize("library", OPTIONAL)
def test_optional_packages_are_imported_by_their_users_only(library):
    users = {module_of(path) for path in ALL_FILES for name in imports(path) if name.partition(".")[0] == library}
    assert users == OPTIONAL[library]


def test_nothing_that_is_shipped_imports_what_is_not():
    for path in ALL_FILES:
        for name in imports(path):
            assert name.partition(".")[0] not in ("benchmarks", "tests", "examples", "docs"), path


def test_examples_import_what_is_public():
    for path in sorted((ROOT / "examples").glob("*.py")):
        for name in imports(path):
            assert not any(part.startswith("_") for part in name.split(".") if name.startswith("profit_optax")), path


def test_the_package_needs_no_optional_package():
    code = (
        "import sys, jax, optax, chex; before = set(sys.modules); "
        "import profit_optax, profit_optax.training, profit_optax.distributed, profit_optax.recording; "
        f"print(sorted((set(sys.modules) - before) & {set(OPTIONAL)}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("part", "others"),
    [
        ("tasks", ("methods", "experiments", "runner", "tuning", "report", "command", "summary")),
        ("methods", ("experiments", "runner", "tuning", "report", "command", "summary")),
    ],
)
def test_the_benchmarks_import_tasks_then_methods_then_experiments(part, others):
    folder = ROOT / "benchmarks" / "forgetting"
    for path in (folder / part).rglob("*.py"):
        for name in imports(path):
            assert not name.startswith(tuple(f"benchmarks.forgetting.{other}" for other in others)), (path, name)
