"""Pieces for small transfers: what is packed comes back, and damage is named."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.forgetting.cifar.pieces import LARGEST, MANIFEST, PieceError, app, pack, unpack


@pytest.fixture
def source(tmp_path):
    """A folder with a folder in it, and a file, which do not compress."""
    folder = tmp_path / "source"
    (folder / "images" / "inner").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i, path in enumerate((folder / "images" / "one", folder / "images" / "inner" / "two", folder / "weights")):
        path.write_bytes(rng.bytes(1000 * i + 500))
    return folder


def paths(source):
    return [source / "images", source / "weights"]


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def pieces(source, tmp_path):
    folder = tmp_path / "pieces"
    pack(paths(source), folder, largest=1000)
    return folder


def test_what_is_packed_comes_back(source, pieces, tmp_path):
    unpack(pieces, tmp_path / "back")
    assert content(tmp_path / "back") == content(source)


def test_no_piece_is_larger_than_asked_for(source, pieces):
    sizes = [path.stat().st_size for path in pieces.glob("*.piece")]
    assert max(sizes) == 1000
    assert len(sizes) >= sum(len(each) for each in content(source).values()) // 1000
    assert LARGEST <= 16_000_000


def test_the_manifest_has_the_size_of_each_piece(pieces):
    listed = json.loads((pieces / MANIFEST).read_text())["pieces"]
    assert {piece["name"]: piece["size"] for piece in listed} == {
        path.name: path.stat().st_size for path in pieces.glob("*.piece")
    }


def remove(path):
    path.unlink()


def shorten(path):
    path.write_bytes(path.read_bytes()[:-1])


def change(path):
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


@pytest.mark.parametrize(
    ("damage", "problem"),
    [(remove, "is missing"), (shorten, "has 999 bytes instead of 1000"), (change, "is damaged: its SHA-256")],
)
def test_damaged_pieces_are_named_and_nothing_is_unpacked(pieces, tmp_path, damage, problem):
    damage(pieces / "001.piece")
    damage(pieces / "003.piece")
    with pytest.raises(PieceError, match=rf"001\.piece {problem}.*003\.piece {problem}.*Carry these pieces over again"):
        unpack(pieces, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_manifest_that_is_missing_or_damaged_is_named(pieces, tmp_path):
    shorten(pieces / MANIFEST)
    (pieces / MANIFEST).write_text((pieces / MANIFEST).read_text()[:-5])
    with pytest.raises(PieceError, match=r"manifest\.json is damaged"):
        unpack(pieces, tmp_path / "back")
    remove(pieces / MANIFEST)
    with pytest.raises(PieceError, match=r"manifest\.json is missing"):
        unpack(pieces, tmp_path / "back")


def test_two_paths_of_one_name_are_refused(source, tmp_path):
    with pytest.raises(ValueError, match="paths must end in different names"):
        pack([source / "weights", source / "weights"], tmp_path / "pieces")


def test_the_commands(source, tmp_path):
    pieces, back = tmp_path / "pieces", tmp_path / "back"
    packed = CliRunner().invoke(app, ["pack", *map(str, paths(source)), "--pieces", str(pieces), "--largest", "2000"])
    assert packed.exit_code == 0, packed.output
    unpacked = CliRunner().invoke(app, ["unpack", str(pieces), "--into", str(back)])
    assert unpacked.exit_code == 0, unpacked.output
    assert content(back) == content(source)
    remove(pieces / "000.piece")
    broken = CliRunner().invoke(app, ["unpack", str(pieces), "--into", str(back)])
    assert broken.exit_code == 1
    assert "000.piece is missing" in broken.output
