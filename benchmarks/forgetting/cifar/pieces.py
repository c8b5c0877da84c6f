"""Large folders in pieces that a small transfer can carry, and together again: images, checkpoints, results.

    python -m benchmarks.forgetting.cifar.pieces pack PATH... --pieces FOLDER
    python -m benchmarks.forgetting.cifar.pieces unpack FOLDER --into FOLDER

The pieces are consecutive parts of one .tar.gz; a manifest has the size and the SHA-256 of each.
"""

import hashlib
import json
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

LARGEST = 16_000_000
# What would be written outside of the target is refused, by Pythons that can (3.11.4 and newer).
_SAFELY: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
MANIFEST = "manifest.json"

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)


class Piece(NamedTuple):
    """One file of a packed folder.

    Attributes:
      name: of the file.
      size: in bytes.
      sha256: of its content.
    """

    name: str
    size: int
    sha256: str


class PieceError(Exception):
    """Pieces are missing or damaged."""


def pack(paths: Sequence[Path], folder: Path, largest: int = LARGEST) -> list[Piece]:
    """Write files and folders to `folder`, as pieces of at most `largest` bytes and a manifest."""
    if len({path.name for path in paths}) < len(paths):
        raise ValueError(f"paths must end in different names, got {', '.join(map(str, paths))}: pack them one by one.")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile() as whole:
        with tarfile.open(fileobj=whole, mode="w:gz") as archive:
            for path in paths:
                archive.add(path, arcname=path.name)
        whole.seek(0)
        pieces = list[Piece]()
        while content := whole.read(largest):
            piece = Piece(f"{len(pieces):03}.piece", len(content), hashlib.sha256(content).hexdigest())
            (folder / piece.name).write_bytes(content)
            pieces.append(piece)
    manifest = {"pieces": [piece._asdict() for piece in pieces]}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return pieces


def unpack(folder: Path, target: Path) -> None:
    """Put what was packed into `folder` together again in `target`, after every piece has been found intact.

    Raises:
      PieceError: names each piece that is missing or damaged.
    """
    pieces = _manifest(folder / MANIFEST)
    problems = [problem for piece in pieces if (problem := _problem(folder / piece.name, piece))]
    if problems:
        raise PieceError(f"{'; '.join(problems)}. Carry these pieces over again; the others are intact.")
    with tempfile.TemporaryFile() as whole:
        for piece in pieces:
            with (folder / piece.name).open("rb") as part:
                shutil.copyfileobj(part, whole)
        whole.seek(0)
        with tarfile.open(fileobj=whole, mode="r:gz") as archive:
            archive.extractall(target, **_SAFELY)


def _manifest(path: Path) -> list[Piece]:
    try:
        return [Piece(**piece) for piece in json.loads(path.read_text(encoding="utf-8"))["pieces"]]
    except FileNotFoundError:
        raise PieceError(f"{path} is missing, which lists the pieces: carry it over too.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise PieceError(f"{path} is damaged ({error}): carry it over again.") from error


def _problem(path: Path, piece: Piece) -> str | None:
    if not path.is_file():
        return f"{path} is missing"
    content = path.read_bytes()
    if len(content) != piece.size:
        return f"{path} has {len(content)} bytes instead of {piece.size}"
    if hashlib.sha256(content).hexdigest() != piece.sha256:
        return f"{path} is damaged: its SHA-256 is not the manifest's"
    return None


@app.command("pack")
def _pack(
    paths: Annotated[list[Path], typer.Argument(exists=True, help="Files and folders.")],
    pieces: Annotated[Path, typer.Option(help="The folder to write the pieces to.")],
    largest: Annotated[int, typer.Option(min=1, help="The most bytes that a piece may have.")] = LARGEST,
) -> None:
    """Pack files and folders into pieces."""
    try:
        packed = pack(paths, pieces, largest)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    typer.echo(f"{len(packed)} pieces of {sum(piece.size for piece in packed):,} bytes in {pieces}")


@app.command("unpack")
def _unpack(
    pieces: Annotated[Path, typer.Argument(help="The folder with the pieces and their manifest.")],
    into: Annotated[Path, typer.Option(help="The folder to unpack to.")],
) -> Any:
    """Put what was packed together again."""
    try:
        unpack(pieces, into)
    except PieceError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"Unpacked to {into}")


if __name__ == "__main__":
    app()
