"""Texts of the language experiment: lines that were there before, and the strings in an R package's data."""

import struct
import zlib

from benchmarks.forgetting.tasks.language.texts import once, strings


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
