"""What would be published: sdist and wheel, their contents and metadata, and the README as an index shows it."""

import email
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="a part of the extra test")

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / "profit_optax").is_dir(), reason="distributions are built from a checkout")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def build(folder, published_at, *options):
    """The folder, with distributions that are to be published at an address."""
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder), *options]
    environment = os.environ | {"PUBLISHED_AT": published_at}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    return folder


def metadata_of(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """A folder with the sdist and the wheel."""
    return build(tmp_path_factory.mktemp("dist"), "")


@pytest.fixture(scope="module")
def wheel(dist):
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def metadata(wheel):
    return metadata_of(wheel)


def test_the_wheel_has_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    info = f"profit_optax-{PROJECT['version']}.dist-info/"
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "profit_optax").rglob("*") if path.is_file()}
    assert {name for name in names if not name.startswith(info)} == {
        name for name in files if "__pycache__" not in name
    }
    assert "profit_optax/py.typed" in names
    assert f"{info}licenses/LICENSE" in names


def test_the_wheel_is_for_every_platform(wheel):
    assert wheel.name == f"profit_optax-{PROJECT['version']}-py3-none-any.whl"


def test_metadata_say_what_the_project_says(metadata):
    assert metadata["Name"] == "profit-optax"
    assert metadata["Version"] == PROJECT["version"]
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload(decode=True).decode() == (ROOT / "README.md").read_text(encoding="utf-8")
    required = {re.match(r"[\w-]+", r)[0] for r in metadata.get_all("Requires-Dist") if "extra ==" not in r}
    assert required == {"chex", "jax", "jaxlib", "optax"}
    assert set(metadata.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])


def test_the_sdist_has_what_is_needed_to_test_it(dist):
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = [
        "LICENSE",
        "Makefile",
        "conftest.py",
        "docs/index.md",
        "docs/conf.py",
        "benchmarks/results/map.md",
        "tests",
    ]
    wanted += [".ci/run", ".github/workflows/tests.yml", "CITATION.cff", "CONTRIBUTING.md", "examples/plain_loop.py"]
    assert {name for name in wanted if not any(n == name or n.startswith(f"{name}/") for n in names)} == set()
    assert not {name for name in names if "__pycache__" in name or name.startswith((".venv", "out/", "dist/"))}


def test_the_installed_wheel_takes_a_step_from_another_folder(wheel, tmp_path):
    target = tmp_path / "installed"
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel)], check=True)
    code = """
import jax, jax.numpy as jnp, optax, profit_optax
tx = profit_optax.profit(optax.adamw(1e-2), optax.sgd(1e-3))
params, batches = jnp.ones(3), jnp.ones((1, 4, 3))
vg = jax.value_and_grad(lambda w, x: jnp.mean((x @ w) ** 2))
state = tx.init(params)
updates, state = tx.update(vg(params, batches[0])[1], state, params, value_and_grad_fn=vg, batches=batches)
print(profit_optax.__file__, bool(optax.tree.get(state, "conflict")))
"""
    environment = os.environ | {"PYTHONPATH": str(target)}
    command = [sys.executable, "-W", "error", "-P", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout == f"{target / 'profit_optax' / '__init__.py'} True\n"


def test_the_readme_renders_as_an_index_shows_it():
    markdown = pytest.importorskip("readme_renderer.markdown", reason="a part of the extra test")
    html = markdown.render((ROOT / "README.md").read_text(encoding="utf-8"))
    assert html is not None
    for element in ("<table>", "<img", "<pre", "<h2"):
        assert element in html
    assert "```" not in html


def test_links_of_a_published_readme_are_whole_addresses(tmp_path):
    address = "https://example.org/owner/name/blob/v1"
    (wheel,) = build(tmp_path, address, "--target", "wheel").glob("*.whl")
    published = metadata_of(wheel)
    text = published.get_payload(decode=True).decode()
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)\s]+)\)", text)
    assert len(links) > 20
    assert [target for _, target in links if not target.startswith("https://")] == []
    for picture, target in links:
        if target.startswith(address):
            assert target.endswith("?raw=true") == bool(picture)
            assert (ROOT / target.removeprefix(f"{address}/").partition("?")[0].partition("#")[0]).exists(), target
    # Nothing else is touched.
    assert text.replace(f"{address}/", "").replace("?raw=true", "") == (ROOT / "README.md").read_text(encoding="utf-8")
    assert "Source, https://example.org/owner/name" in published.get_all("Project-URL")


def test_versions_are_one_version():
    version = PROJECT["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    released = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert released[0] == version
