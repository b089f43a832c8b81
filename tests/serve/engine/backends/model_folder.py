"""Model folders for the tests of the backends: small, and built where the test can see them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evenkeel.serve.contract import manifest
from evenkeel.serve.contract.manifest import Manifest


class Folder:
    """A model folder under construction."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def put(self, name: str, content: bytes | str) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def manifest(self, data: Mapping[str, Any] | None = None) -> Manifest:
        return manifest.parse(data or {}, self.path)
