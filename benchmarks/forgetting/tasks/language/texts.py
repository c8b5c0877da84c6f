"""Texts for the language model, out of Debian's packages and of Python.

On a Debian that has groff: `python -m benchmarks.forgetting.tasks.language.texts FOLDER`.

The new one is German: the manual pages of section 1 of `manpages-de` (GPL-3+), one after the other, without lines that
stood there before, so that little of what is scored was trained on. The old ones are quotations in English (`cookie` of
`fortunes`), a novel (Persuasion, out of `r-cran-janeaustenr`; the text is in the public domain) and a program (the
running Python's `argparse.py`, of Python's licence).
"""

import argparse
import gzip
import re
import struct
import subprocess
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer

from benchmarks.forgetting.tasks.language.task import PARTS, TextError

PACKAGES = ("manpages-de", "fortunes", "r-cran-janeaustenr")
_GROFF = ("groff", "-mandoc", "-Tutf8", "-P-c", "-P-b", "-P-u", "-K", "utf8")
# Shorter lines, in bytes, are headings and options, which any page may have.
_SHORT = 20
# R's types of values, as it stores them: a vector of strings, and a string.
_STRINGS, _STRING = struct.pack(">I", 16), 9


def make(folder: Annotated[Path, typer.Argument(help="Where the texts are written.")]) -> None:
    """Write the new text and the old ones."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as unpacked:
        root = Path(unpacked)
        subprocess.run(["apt-get", "download", "-o", "APT::Sandbox::User=root", *PACKAGES], cwd=root, check=True)
        for package in sorted(root.glob("*.deb")):
            typer.echo(package.name)
            subprocess.run(["dpkg", "-x", package, root], check=True)
        every = [line for page in sorted(root.glob("usr/share/man/de/man1/*.gz")) for line in printed(page)]
        manual = list(once(every))
        novels = (root / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
        texts = {
            "german_manual.txt": "".join(f"{line}\n" for line in manual),
            "cookie": (root / "usr/share/games/fortunes/cookie").read_text(encoding="utf-8"),
            "persuasion.txt": "\n".join({lines[0]: lines for lines in strings(novels)}["Persuasion"]),
            "argparse.py": Path(argparse.__file__).read_text(encoding="utf-8"),
        }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    typer.echo(
        "Characters of the manual's part that is scored in lines of the part that is trained on:"
        f" {repeated(every):.0%} of all lines, {repeated(manual):.0%} of those that are kept."
    )


def printed(page: Path) -> list[str]:
    """The lines of a packed manual page, blanks squeezed and empty ones left out."""
    source = gzip.decompress(page.read_bytes())
    text = subprocess.run(_GROFF, input=source, capture_output=True, check=True).stdout.decode()
    squeezed = (re.sub(" +", " ", line) for line in text.split("\n"))
    return [line for line in squeezed if line.strip(" ")]


def once(lines: Iterable[str]) -> Iterator[str]:
    """Lines without those that came before; short ones may come again."""
    seen = set()
    for line in lines:
        if len(line.encode()) <= _SHORT or line not in seen:
            yield line
        seen.add(line)


def repeated(lines: Sequence[str]) -> float:
    """Which share of the characters that are scored is in lines that are trained on."""
    ends = np.cumsum([len(line) for line in lines])
    trained_to, tuned_to, _ = np.round(np.cumsum(PARTS) * ends[-1])
    trained = {line for line, end in zip(lines, ends, strict=True) if end <= trained_to}
    scored = [line for line, end in zip(lines, ends, strict=True) if end > tuned_to]
    return sum(len(line) for line in scored if line in trained) / sum(map(len, scored))


def strings(database: bytes) -> Iterator[list[str]]:
    """The vectors of strings in a package's data as R stores it: each behind its size, compressed by zlib."""
    while database:
        unpacker = zlib.decompressobj()
        values, database = unpacker.decompress(database[4:]), unpacker.unused_data
        at = values.index(_STRINGS) + len(_STRINGS)
        (count,), at, found = struct.unpack_from(">I", values, at), at + 4, []
        for _ in range(count):
            kind, size = struct.unpack_from(">Ii", values, at)
            if kind & 0xFF != _STRING:
                raise TextError(f"a vector of strings has a value of R's type {kind & 0xFF} in it.")
            found.append(values[at + 8 : at + 8 + size].decode())
            at += 8 + size
        yield found


if __name__ == "__main__":
    typer.run(make)
