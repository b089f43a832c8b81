"""Whether a Host header names this machine: a page in a browser can make it send requests here under a name of its own."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

NAMES = ("localhost", "ip6-localhost")


@lru_cache(maxsize=256)  # clients say the same again and again
def is_loopback(host: str) -> bool:
    """With a port or without. No Host is none of a browser's."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.endswith("]") else host
    name = name.strip("[]").lower()
    if not name or name in NAMES or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
