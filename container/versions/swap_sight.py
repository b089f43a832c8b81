"""What the swap table is shown of this moment: read from the status page and the slots, decided by nobody here."""

from __future__ import annotations

from evenkeel.container.versions.blue_green import BlueGreen, BlueGreenSlot, Revision, RevisionState
from evenkeel.container.versions.engine_readiness import EngineReadiness, is_ready
from evenkeel.container.versions.swap_progress import LOAD_S_MAX, SwapProgress
from evenkeel.container.versions.swap_table import SwapView
from evenkeel.serve.contract.status_page import Front, Main, StatusPage

FOLLOW_S = 5.0  # for a front that hangs: it finds its way by itself, and is replaced if it hangs longer


class SwapSight:
    """Of a folder with versions. `window_s`: how long the version before stands by."""

    def __init__(self, page: StatusPage, places: BlueGreen, progress: SwapProgress, window_s: float) -> None:
        self._page, self._places, self._progress, self._window_s = page, places, progress, window_s
        self._readiness = EngineReadiness(page)

    def view(self, now_s: float) -> SwapView:
        page, places, progress = self._page, self._places, self._progress
        serving, other, staying = places.serving, places.other, places.other.staying
        phase_s = now_s - progress.since_s
        stands_by = staying is not None and staying.state is RevisionState.PREVIOUS
        return SwapView(
            phase=progress.phase,
            wanted=progress.wanted != places.revision.version,
            in_place=progress.in_place,
            cleared=other.revision is None and (not progress.in_place or serving.empty),
            other_wanted=staying is not None and staying.version == progress.wanted,
            other_ready=staying is not None and self._all_may_take_traffic(other, staying, now_s),
            other_failed=bool(progress.failed) or phase_s > LOAD_S_MAX,
            followed=_followed(page) or phase_s > FOLLOW_S,
            serving_ready=all(is_ready(page, child) for child in serving.children),
            previous_over=staying is not None and stands_by and now_s - staying.since_s >= self._window_s,
        )

    def _all_may_take_traffic(self, slot: BlueGreenSlot, revision: Revision, now_s: float) -> bool:
        """Each is asked, whatever the others say: they answer at the same time."""
        ready = [self._readiness.may_take_traffic(child, revision.number, now_s) for child in slot.children]
        return all(ready)


def _followed(page: StatusPage) -> bool:
    number = page.main.count[Main.SERVING]
    return all(page.front(i).count[Front.FOLLOWS] == number for i in range(page.main.count[Main.FRONTS]))
