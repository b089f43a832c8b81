"""How the text of a variable becomes the value of a setting, one function a kind. Each raises ValueError: what it must be."""

from __future__ import annotations

from pathlib import Path

from evenkeel.serve.contract import fault_grammar


def text(value: str) -> str:
    return value


def log_form(value: str) -> str:
    if value not in ("json", "text", "auto"):
        raise ValueError("must be json, text or auto")
    return value


def swap_place(value: str) -> str:
    if value not in ("auto", "beside", "in_place"):
        raise ValueError("must be auto, beside or in_place")
    return value


def gpu_rule(value: str) -> str:
    if value not in ("0", "1", "auto"):
        raise ValueError("must be 0, 1 or auto")
    return value


def token(value: str) -> str:
    if not 16 <= len(value) <= 1024 or not all("!" <= c <= "~" for c in value):
        raise ValueError("must be 16 to 1024 printable ASCII characters without spaces")
    return value


def address(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ValueError("must be HOST:PORT")
    return value


def host(value: str) -> str:
    """An IPv6 address may be written as URLs have it."""
    return value[1:-1] if value.startswith("[") and value.endswith("]") else value


def faults(value: str) -> str:
    fault_grammar.parse(value)
    return value


def file_name(value: str) -> str:
    if Path(value).is_absolute() or ".." in Path(value).parts or not value.endswith(".py"):
        raise ValueError("must be the name of a Python file in the model folder, such as inference.py")
    return value


def truth(value: str) -> bool:
    """In any case, as the platform's own tools disagree."""
    if value.lower() not in ("true", "false", "1", "0", "yes", "no"):
        raise ValueError("must be true or false")
    return value.lower() in ("true", "1", "yes")
