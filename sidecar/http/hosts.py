"""Which requests over TCP come from a web page that has no business here. Pure.

A browser lets a foreign page reach a port of its user's machine in two ways. A name that first led to the page's server and
then to 127.0.0.1 makes the page of the same origin as we are: only its `Host` gives it away. And any page may send a
changing call across, which says so in `Origin` and `Sec-Fetch-Site`. Anyone who is no browser sends neither, and the right Host.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

from evenkeel.serve.errors import EvenkeelError
from evenkeel.sidecar.http.auth import Forbidden

HOST = re.compile(r"(?:\[([^\]]*)\]|([^:]*))(?::[0-9]*)?")
READING = ("GET", "HEAD", "OPTIONS")
OWN = ("same-origin", "none")  # of Sec-Fetch-Site


class Misdirected(EvenkeelError):
    code, status = "misdirected", 421


class CrossSite(Forbidden):
    code = "cross_site"


@dataclass(frozen=True, slots=True)
class Hosts:
    """The names by which a listener may be called. None: any, because it can be reached from elsewhere, under names that
    nobody told us, such as a pod's address in a probe."""

    names: frozenset[str] | None

    @staticmethod
    def of(bound: str, configured: Iterable[str] = ()) -> Hosts:
        """Of a listener bound to the address `bound`, which was configured by these names."""
        if not _loops(bound):
            return ANY
        return Hosts(frozenset({"localhost", _name(bound), *map(_name, configured), _name(socket.gethostname())} - {""}))

    def allow(self, host: str) -> bool:
        """`host` is the header's value, with a port or without."""
        if self.names is None:
            return True
        name = _name(host)
        return name in self.names or _loops(name)


ANY = Hosts(None)


def check(method: str, headers: Sequence[tuple[bytes, bytes]], hosts: Hosts) -> None:
    """Raises Misdirected or CrossSite. One without Host is of HTTP/1.0, which no browser speaks."""
    named = {name: value.decode("latin-1").strip() for name, value in headers if name in (b"host", b"origin", b"sec-fetch-site")}
    host = named.get(b"host", "")
    if host and not hosts.allow(host):
        raise Misdirected("this port is called localhost or by its address; another Host is not answered")
    if method not in READING and not _is_own(host, named.get(b"origin"), named.get(b"sec-fetch-site")):
        raise CrossSite("a web page of another origin may change nothing here")


def _is_own(host: str, origin: str | None, site: str | None) -> bool:
    if site is not None and site.lower() not in OWN:
        return False
    if origin is None:
        return True
    try:
        return bool(host) and urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


def _name(host: str) -> str:
    """Without port, brackets and the dot that ends a name; "" for what is no Host."""
    match = HOST.fullmatch(host.strip().lower())
    if match is None:
        return ""
    return (match[1] or match[2] or "").removesuffix(".")


def _loops(name: str) -> bool:
    try:
        address: IPv4Address | IPv6Address = ip_address(name)
    except ValueError:
        return name == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback
