"""What a built package says of itself: the README, with addresses that hold where the repository's files are not.

The address of the repository is not part of it, since it may be moved and mirrored: whoever builds gives it,
MEDREP_REPOSITORY=https://HOST/OWNER/NAME. Without one, pictures become what they show and links become their words.
"""

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

ADDRESS = "MEDREP_REPOSITORY"
_LINK = re.compile(r"(?P<picture>!?)\[(?P<words>[^\]]*)\]\((?P<target>(?!https?://|#)[^)\s]+)\)")


class AddressedReadme(MetadataHookInterface):
    """Fills in the fields ``readme`` and ``urls``."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the two fields; called by hatchling.

        Raises:
            ValueError: An address that is none of a repository.
        """
        root = Path(self.root)
        version = re.search(r'^__version__ = "(.+)"', (root / "medrep/__init__.py").read_text("utf-8"), re.MULTILINE)
        if version is None:
            raise ValueError("medrep/__init__.py names no __version__")
        address, tag = os.environ.get(ADDRESS, "").strip().rstrip("/"), f"v{version[1]}"
        if address and not re.fullmatch(r"https://[\w.\-]+(:\d+)?(/[\w.\-]+)+", address):
            raise ValueError(f"{ADDRESS} is not like https://HOST/OWNER/NAME")
        text = (root / "README.md").read_text("utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": addressed(text, address, tag)}
        metadata["urls"] = urls(address, tag) if address else {}


def urls(address: str, tag: str) -> dict[str, str]:
    """Return the addresses that a package index shows beside the package."""
    return {
        "Repository": address,
        "Documentation": f"{address}/blob/{tag}/docs/index.md",
        "Changelog": f"{address}/blob/{tag}/CHANGELOG.md",
        "Issues": f"{address}/issues",
    }


def addressed(text: str, address: str, tag: str) -> str:
    """Return Markdown whose pictures and links lead to the files of a release.

    Args:
        text: Markdown with targets relative to the root of the repository.
        address: Of the repository; empty where none is known.
        tag: Of the release.
    """

    def one(found: re.Match[str]) -> str:
        picture, words, target = found["picture"], found["words"], found["target"]
        if not address:
            return f"*({words})*" if picture else words
        return f"{picture}[{words}]({address}/{'raw' if picture else 'blob'}/{tag}/{target})"

    return _LINK.sub(one, text)
