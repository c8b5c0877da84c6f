"""What stands around the code and is easily left behind: workflows, hooks, the list of dependencies, links to files."""

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
YAML = sorted([*ROOT.glob(".github/**/*.yml"), ROOT / ".pre-commit-config.yaml", ROOT / "CITATION.cff"])
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / ".github" / "pull_request_template.md"])
# The extras `targets` and `torch` are gigabytes, and are not here as a rule.
INSTALLED = {name.lower() for found in metadata.distributions() if (name := found.metadata["Name"])}


def requirements():
    """Every package that is required by the package or by an extra of it, in lower case."""
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    names = {re.match(r"[\w.-]+", requirement)[0].lower() for group in groups for requirement in group}
    return names - {"profit-optax"}


def dependencies():
    """Package by package, the licence that the page of dependencies says it has."""
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    return {name: licence.strip() for name, licence in re.findall(r"^\| `([\w.-]+)` \| ([^|]+) \|", text, re.MULTILINE)}


def targets_of_make():
    """Every target that is there to be called."""
    return set(re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_files_for_hosts_are_yaml(path):
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


@pytest.mark.parametrize("path", [*YAML, *PAGES], ids=lambda path: path.name)
def test_targets_of_make_that_are_named_exist(path):
    named = re.findall(r"(?:`|run: |entry: |- )make ([\w-]+)", path.read_text(encoding="utf-8"))
    assert set(named) <= targets_of_make()


def test_the_oldest_python_that_is_allowed_is_tested():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))
    matrix = workflow["jobs"]["suite"]["strategy"]["matrix"]["include"]
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert {(run["python"], run["target"]) for run in matrix} >= {(oldest, "test-oldest"), (oldest, "test")}
    assert {run["target"] for run in matrix} <= targets_of_make()


def test_help_names_every_target_of_make():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert set(re.findall(r'@echo "make ([\w-]+) ', makefile)) | {"help"} == targets_of_make()


def test_the_oldest_versions_are_those_of_the_project():
    printed = subprocess.run([sys.executable, ROOT / ".ci" / "lowest.py"], check=True, capture_output=True, text=True)
    pins = dict(line.split("==") for line in printed.stdout.splitlines())
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    bounded = [re.match(r"[\w.-]+", requirement)[0] for group in groups for requirement in group if ">=" in requirement]
    assert set(pins) == set(bounded)
    assert f"jax>={pins['jax']}" in PROJECT["dependencies"]


def test_every_dependency_is_accounted_for():
    assert dependencies().keys() == requirements()


@pytest.mark.parametrize("name", sorted(dependencies().keys() & INSTALLED))
def test_licences_are_those_that_packages_name(name):
    about = metadata.metadata(name)
    said = " ".join([about.get("License-Expression", ""), about.get("License", ""), *about.get_all("Classifier", [])])
    family = re.match(r"[^-(]+", dependencies()[name])[0].strip()
    assert family.lower() in said.lower(), said[:200]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_to_files_of_the_repository_hold(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)|\{download\}`[^`<]*<([^>]+)>`", text):
        file = "".join(target).partition("#")[0]
        if file and not file.startswith("http"):
            assert (path.parent / file).exists(), file
