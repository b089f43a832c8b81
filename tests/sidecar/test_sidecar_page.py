"""The page as a file: in the package, self-contained, under a policy that fits it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from evenkeel.sidecar.http import page_html

ROOT = Path(__file__).resolve().parents[2]


def test_an_installed_package_brings_the_page_along() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "page.html" in data["evenkeel.sidecar"]


def test_the_page_names_nothing_outside_of_itself() -> None:
    text, _ = page_html.load()
    assert re.findall(r"https?://[^\s\"']+", text) == ["http://www.w3.org/2000/svg"], "only the name of a language"
    assert re.findall(r'(?:src|href)="([^"]*)"', text) == ["data:,"]
    assert "@import" not in text and "url(" not in text


def test_the_page_never_makes_html_out_of_text() -> None:
    text, _ = page_html.load()
    for maker in (r"innerHTML\s*\+?=[^=]", "outerHTML", "insertAdjacentHTML", "document.write", r"\beval\(", "DOMParser"):
        assert re.findall(maker, text) == [], maker


def test_the_policy_allows_this_script_and_this_style_and_nothing_from_elsewhere() -> None:
    text, policy = page_html.load()
    parts = dict(p.split(" ", 1) for p in policy.split("; "))
    assert parts["default-src"] == "'none'" and parts["connect-src"] == "'self'"
    assert re.fullmatch(r"'sha256-[\w+/]{43}='", parts["script-src"]) and re.fullmatch(
        r"'sha256-[\w+/]{43}='", parts["style-src"]
    )
    assert page_html.policy(text.replace('"use strict";', '"use strict"; ')) != policy, "another script, another hash"


def test_the_page_is_small_enough_to_be_read_once_a_visit() -> None:
    assert len(page_html.load()[0].encode()) < 40_000
