"""A model's files for its instances: whatever an archive holds, nothing is written outside of its folder."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from evenkeel.endpoint.fleet.model_files import NoModelFiles, made_ready


def archive(path: Path, **files: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name.replace("__", "/"))
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))


def test_an_archive_is_unpacked_once(tmp_path: Path) -> None:
    archive(tmp_path / "s3/b/m.tar.gz", model="1", code__inference="2")
    made = made_ready("evenkeel", "s3://b/m.tar.gz", tmp_path / "s3", tmp_path / "made")
    assert made == tmp_path / "made" and (made / "code/inference").read_text() == "2"
    archive(tmp_path / "s3/b/m.tar.gz", model="changed")
    assert made_ready("evenkeel", "s3://b/m.tar.gz", tmp_path / "s3", tmp_path / "made") == made
    assert (made / "model").read_text() == "1"  # what a fleet began with stays, whatever becomes of the object


def test_a_prefix_is_copied_and_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "s3/b/models/one").mkdir(parents=True)
    (tmp_path / "s3/b/models/one/model.onnx").write_text("x")
    made = made_ready("evenkeel", "s3://b/models/one/", tmp_path / "s3", tmp_path / "made")
    assert (made / "model.onnx").read_text() == "x"
    assert made_ready(str(made), "", tmp_path / "s3", tmp_path / "other") == made and not (tmp_path / "other").exists()


@pytest.mark.parametrize("kind", ["missing", "text", "cut", "outside", "no folder"])
def test_what_cannot_be_made_ready_says_why_and_leaves_nothing(tmp_path: Path, kind: str) -> None:
    path, url, image = tmp_path / "s3/b/m.tar.gz", "s3://b/m.tar.gz", "evenkeel"
    archive(path, **({"..__..__outside": "x"} if kind == "outside" else {"model": "1" * 5000}))
    if kind == "missing":
        path.unlink()
    elif kind == "text":
        path.write_text("no archive")
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif kind == "no folder":
        image, url = str(tmp_path / "none"), ""
    with pytest.raises(NoModelFiles):
        made_ready(image, url, tmp_path / "s3", tmp_path / "made")
    assert not (tmp_path / "made").exists() and not (tmp_path / "made.new").exists() and not list(tmp_path.rglob("outside"))
