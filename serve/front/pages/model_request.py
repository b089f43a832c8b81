"""What a client says of a model that is to be loaded: its name and the folder where it lies. Looks at files, so it runs in a
thread."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import orjson

from evenkeel.serve.contract.model_table import NAME_BYTES_MAX, URL_BYTES_MAX
from evenkeel.serve.errors import BadRequest, NotFound

FILES_MAX = 10_000  # of a model's folder that are looked at
LIMIT_MAX, LIMIT = 1000, 100  # models on a page of the list


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """`folder` is real: no link leads from there to anywhere else."""

    name: str
    url: str
    folder: str


def model_request(body: bytes, root: Path) -> ModelRequest:
    """Raises BadRequest and NotFound. `root`: where folders of models may lie."""
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError as e:
        raise BadRequest(f"the body is no JSON: {e}") from e
    name, url = (told.get("model_name"), told.get("url")) if isinstance(told, dict) else (None, None)
    if not isinstance(name, str) or not isinstance(url, str):
        raise BadRequest('the body must be {"model_name": "…", "url": "/folder/of/the/model"}')
    if not 0 < len(name.encode()) <= NAME_BYTES_MAX:
        raise BadRequest(f"model_name must have 1 to {NAME_BYTES_MAX} bytes")
    if not 0 < len(url.encode()) <= URL_BYTES_MAX:
        raise BadRequest(f"url must have 1 to {URL_BYTES_MAX} bytes")
    return ModelRequest(name, url, str(_folder(url, root)))


def _folder(url: str, root: Path) -> Path:
    if "\0" in url or not url.startswith("/"):
        raise BadRequest("url must be an absolute path of a folder")
    real_root = root.resolve()
    try:
        folder = Path(url).resolve(strict=True)
    except FileNotFoundError as e:
        raise NotFound(f"there is no folder {url}") from e
    except (OSError, RuntimeError) as e:  # a loop of links, a name that is too long, no rights
        raise BadRequest(f"the folder {url} cannot be looked at: {e}") from e
    if real_root not in folder.parents:
        raise BadRequest(f"url must lie in {root}: {url} does not")
    if not folder.is_dir():
        raise BadRequest(f"url must be a folder: {url} is none")
    _refuse_links_out(folder)
    return folder


def _refuse_links_out(folder: Path) -> None:
    seen = 0
    for where, folders, files in os.walk(folder):
        for name in (*folders, *files):
            seen += 1
            path = Path(where) / name
            if path.is_symlink() and folder not in path.resolve().parents:
                raise BadRequest(f"a link of the model leads out of its folder: {path.relative_to(folder)}")
        if seen > FILES_MAX:
            raise BadRequest(f"the model's folder has more than {FILES_MAX} files")


def page_bounds(token: str | None, limit: str | None) -> tuple[int, int]:
    """The number of the first row of a page, and how many there may be on it. Raises BadRequest."""
    if token is not None and not (token.isascii() and token.isdigit() and len(token) < 10):
        raise BadRequest("next_page_token must be one that a list has given")
    if limit is not None and not (limit.isascii() and limit.isdigit() and len(limit) < 10 and 0 < int(limit) <= LIMIT_MAX):
        raise BadRequest(f"limit must be 1 to {LIMIT_MAX}")
    return int(token or 0), int(limit or LIMIT)
