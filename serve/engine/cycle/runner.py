"""How a model's batches run: at once (run_now.py), whole bodies by a handler (run_handler.py), or launched on a device and
completed later (launch_complete.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from evenkeel.serve.engine.peers import Peer


class Runner(Protocol):
    """Takes batches from its queue, and answers everybody in them."""

    @property
    def idle(self) -> bool:
        """Nothing is in flight."""

    def advance(self, now_s: float, closing: bool) -> float:
        """Run one batch if it is time. Returns how long this model may be left alone. `closing`: nothing more comes."""

    def forget(self, peer: Peer) -> None:
        """A front has gone: what runs for it runs on, and nobody is answered."""
