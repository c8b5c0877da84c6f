"""The README for an index of packages, where links into the repository must be whole addresses.

Hatchling runs it on every build. What the variable PUBLISHED_AT holds, such as `https://host/owner/name/blob/v0.2.0`,
is put before every relative link; pictures are asked for as they are. Without it the README stays as it is.
"""

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(?P<picture>!?)(?P<text>\[[^\]]*\])\((?P<target>(?![a-z]+:|#)[^)\s]+)\)")


def whole(text: str, base: str) -> str:
    """A page of Markdown with whole addresses in the place of relative links."""
    if not base:
        return text

    def address(link: re.Match[str]) -> str:
        query = "?raw=true" if link["picture"] else ""
        return f"{link['picture']}{link['text']}({base.rstrip('/')}/{link['target']}{query})"

    return _LINK.sub(address, text)


class Readme(MetadataHookInterface):
    """What Hatchling calls."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the README of the distribution."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        base = os.environ.get("PUBLISHED_AT", "")
        metadata["readme"] = {"content-type": "text/markdown", "text": whole(text, base)}
        if base:
            repository = base.partition("/blob/")[0]
            metadata["urls"] = {"Source": repository, "Changelog": f"{base.rstrip('/')}/CHANGELOG.md"}
