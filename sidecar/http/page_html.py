"""The page for people, read once from the package, and the Content-Security-Policy that fits exactly this page.

Its style and its script are inside it; the policy names both by their hash and allows nothing else, so that neither
another script nor anything from another origin could run or load even if a text from outside were taken for HTML.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources


def load() -> tuple[str, str]:
    """The page and its policy."""
    text = resources.files("evenkeel.sidecar").joinpath("page.html").read_text(encoding="utf-8")
    return text, policy(text)


def policy(text: str) -> str:
    return "; ".join([
        "default-src 'none'", f"script-src {_hash(text, 'script')}", f"style-src {_hash(text, 'style')}",
        "connect-src 'self'", "img-src data:", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
    ])  # fmt: skip


def _hash(text: str, tag: str) -> str:
    """Of what stands between <tag> and </tag>, of which the page has exactly one."""
    assert text.count(f"<{tag}>") == 1 == text.count(f"</{tag}>"), f"one <{tag}> without attributes"
    inner = text.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()}'"
