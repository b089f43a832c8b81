"""The folder of versions, and the revisions made of them: each loading of a version has the next number.

Owner of the numbers, of the counters' labels and of what the folder was seen to hold last.
"""

from __future__ import annotations

from pathlib import Path

from evenkeel.container.versions.blue_green import Revision
from evenkeel.container.versions.version_counters import Label, VersionCounters
from evenkeel.serve.contract import catalogue, manifest
from evenkeel.serve.contract.catalogue import Catalogue
from evenkeel.serve.errors import BadModel


class Revisions:
    def __init__(self, folder: Catalogue, program: str) -> None:
        self._folder, self._program = folder, program
        self._number = 0
        self._counters = VersionCounters()

    @property
    def name(self) -> str:
        """Of the model; empty for a plain folder."""
        return self._folder.name

    @property
    def path(self) -> Path:
        return self._folder.folder

    @property
    def labels(self) -> list[Label]:
        return self._counters.labels

    def next(self, version: str) -> Revision:
        self._number += 1
        return Revision(self._number, version, self._folder.path(version), self._counters.number(self._label(version)))

    def folder_with(self, version: str) -> Catalogue:
        """As it is now. Raises BadModel where it has no such version, OSError where it cannot be read."""
        folder = catalogue.read(self._folder.folder, self._program)
        folder.choose(version)
        if folder.name != self._folder.name:
            raise BadModel(f"{folder.folder} holds {folder.name!r} now, and {self._folder.name!r} was started")
        return folder

    def go_by(self, folder: Catalogue) -> None:
        self._folder = folder

    def _label(self, version: str) -> Label:
        """Name and version, known before an engine has loaded anything: counters have the same labels from the first on."""
        if version:
            return {"name": self._folder.name, "version": version}
        folder = self._folder.folder
        try:
            described = manifest.load(folder, program=self._program)
        except BadModel:
            return {"name": folder.resolve().name, "version": ""}  # the engine will say what is wrong with it
        return {"name": described.name, "version": described.version}
