"""A model's files for its instances: what its image or its data names, as a folder that nobody changes any more."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

ARCHIVES = (".tar.gz", ".tgz")


class NoModelFiles(Exception):
    """They cannot be made ready. The message says why."""


def made_ready(image: str, url: str, buckets: Path, into: Path) -> Path:
    """The model's folder. `into` is made where something has to be unpacked or copied; it may be there from before.

    `image` is a folder, or else the model's data count. Raises NoModelFiles.
    """
    if Path(image).is_absolute() and not url:
        if not Path(image).is_dir():
            raise NoModelFiles(f"the model folder {image} does not exist")
        return Path(image)
    source = buckets / url.removeprefix("s3://").rstrip("/")
    if into.exists():
        return into
    fresh = into.with_suffix(".new")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        if source.is_dir():
            shutil.copytree(source, fresh)
        elif source.name.endswith(ARCHIVES):
            fresh.mkdir(parents=True)
            with tarfile.open(source, "r:gz") as archive:
                archive.extractall(fresh, filter="data")
        else:
            raise NoModelFiles(f"{url} is neither a .tar.gz nor a folder")
    except (OSError, tarfile.TarError, EOFError) as e:
        shutil.rmtree(fresh, ignore_errors=True)
        raise NoModelFiles(f"the model data {url} cannot be unpacked: {e}") from e
    fresh.replace(into)
    return into
