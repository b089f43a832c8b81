"""Take the wish for a version: look whether it is there and where it would fit, and remember that it is wanted."""

from __future__ import annotations

from evenkeel.container.versions import wishes
from evenkeel.container.versions.blue_green import BlueGreen
from evenkeel.container.versions.revisions import Revisions
from evenkeel.container.versions.swap_progress import SwapProgress
from evenkeel.container.versions.version_fit import VersionFit
from evenkeel.container.versions.wishes import WishAnswer
from evenkeel.serve.contract.commands import CommandError, Refusal
from evenkeel.serve.contract.status_page import StatusPage
from evenkeel.serve.errors import BadModel


class WishTaker:
    def __init__(
        self, places: BlueGreen, progress: SwapProgress, revisions: Revisions, page: StatusPage, swap: str, memory_bytes: int
    ) -> None:
        """`swap`, `memory_bytes`: as VersionFit has them."""
        self._places, self._progress, self._revisions = places, progress, revisions
        self._fit = VersionFit(page, swap, memory_bytes)

    def take(self, version: str) -> WishAnswer:
        """Raises CommandError for a version that cannot be looked at, and then nothing has changed."""
        places, progress = self._places, self._progress
        other = places.other.staying if places.has_versions else None
        answer = wishes.without_a_load(version, places.revision.version, progress.wanted, other, progress.fit)
        if answer is not None:
            progress.wanted = version
            return answer
        try:
            return self._to_be_loaded(version)
        except BadModel as e:
            raise CommandError(Refusal.REFUSED, e.message) from e
        except OSError as e:  # a folder that may not be read, or that somebody is changing just now: that ends no container
            raise CommandError(Refusal.REFUSED, f"version {version} cannot be looked at: {e}") from e

    def _to_be_loaded(self, version: str) -> WishAnswer:
        places, progress = self._places, self._progress
        folder = self._revisions.folder_with(version)
        other = places.other.children if places.has_versions else []
        fit = self._fit.measure(places.serving.children, other, places.revision.path, folder.path(version))
        self._revisions.go_by(folder)
        progress.wanted, progress.fit = version, fit
        return wishes.with_a_load(version, fit, steady=progress.steady)
