"""Texts of the language experiment: what is written, lines that were there before, and the strings of an R package."""

import argparse
import gzip
import struct
import types
import zlib
from pathlib import Path

import pytest

from benchmarks.forgetting.tasks.language import texts
from benchmarks.forgetting.tasks.language.task import TextError
from benchmarks.forgetting.tasks.language.texts import make, once, repeated, strings


def test_long_lines_come_once_and_short_ones_as_often_as_they_stand():
    notice = "This page was translated by somebody."
    lines = ["NAME", notice, "NAME", f" {notice}", notice, "x" * 21, "x" * 20, "x" * 20, "x" * 21]
    assert list(once(lines)) == ["NAME", notice, "NAME", f" {notice}", "x" * 21, "x" * 20, "x" * 20]
    # Twelve letters, of two bytes each.
    assert list(once(["ä" * 12, "ä" * 12])) == ["ä" * 12]


def as_r_stores_it(lines):
    """A vector of strings in R's serialization, version 3, and before it how long that is, for a package's data."""
    values = b"X\n" + struct.pack(">IIII", 3, 0x40201, 0x30500, 5) + b"UTF-8" + struct.pack(">II", 16, len(lines))
    for line in lines:
        values += struct.pack(">II", 0x40009, len(line.encode())) + line.encode()
    return struct.pack(">I", len(values)) + zlib.compress(values)


def test_every_vector_of_strings_of_an_r_package_is_read():
    novels = [["EMMA", "", "By Jane Austen"], ["Persuasion", "Sir Walter Elliot, of Kellynch Hall — é"]]
    assert list(strings(b"".join(map(as_r_stores_it, novels)))) == novels


def test_what_is_no_string_is_an_error():
    values = struct.pack(">III", 16, 1, 0x4000D) + struct.pack(">I", 0)
    with pytest.raises(TextError, match="type 13"):
        list(strings(struct.pack(">I", len(values)) + zlib.compress(values)))


def test_what_is_repeated_is_of_the_end_and_stands_at_the_start():
    lines = [f"line {i}" for i in range(10)]
    assert repeated(lines) == 0
    # The ninth line stands in the part that is tuned on alone, the tenth in the part that is trained on.
    assert repeated([*lines[:8], lines[7], lines[0]]) == 0.5


def test_four_texts_are_written_out_of_what_the_packages_have(tmp_path, monkeypatch, capsys):
    notice = "This page was translated by somebody."

    def run(command, cwd=None, **options):
        program, *arguments = command
        if program == "apt-get":
            assert arguments[-len(texts.PACKAGES) :] == list(texts.PACKAGES)
            (cwd / "some_1.0.deb").touch()
        elif program == "dpkg":
            root = Path(arguments[-1])
            files = {
                "usr/share/man/de/man1/a.1.gz": gzip.compress(f"A\n\n  several   blanks\n{notice}\n".encode()),
                "usr/share/man/de/man1/b.1.gz": gzip.compress(f"B\n{notice}\nThe end of what is printed.\n".encode()),
                "usr/share/games/fortunes/cookie": b"A quotation.\n",
                "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb": b"".join(
                    map(as_r_stores_it, [["EMMA"], ["Persuasion", "", "Sir Walter Elliot"]])
                ),
            }
            for name, content in files.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(content)
        else:
            assert program == "groff"
            return types.SimpleNamespace(stdout=options["input"])
        return None

    monkeypatch.setattr(texts.subprocess, "run", run)
    make(tmp_path / "made" / "here")
    assert {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "made" / "here").iterdir()} == {
        "german_manual.txt": f"A\n several blanks\n{notice}\nB\nThe end of what is printed.\n",
        "cookie": "A quotation.\n",
        "persuasion.txt": "Persuasion\n\nSir Walter Elliot",
        "argparse.py": Path(argparse.__file__).read_text(encoding="utf-8"),
    }
    printed = capsys.readouterr().out
    assert "some_1.0.deb" in printed
    assert "0% of those that are kept" in printed
