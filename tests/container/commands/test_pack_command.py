"""`evenkeel pack`: what SageMaker accepts, with the same bytes for the same files."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from pathlib import Path

import pytest

from evenkeel.container.commands import pack_command
from evenkeel.serve.errors import BadModel


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "inference.py").write_text("print('hi')\n")
    (folder / "code" / "run.sh").write_text("#!/bin/sh\n")
    (folder / "code" / "run.sh").chmod(0o750)
    (folder / "model.onnx").write_bytes(b"\x00" * 1000)
    (folder / "model.onnx").chmod(0o600)
    return folder


def members(path: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(path) as archive:
        return {m.name: m for m in archive.getmembers()}


def packed(model: Path, tmp_path: Path, name: str = "model.tar.gz") -> Path:
    output = tmp_path / name
    assert pack_command.pack(model, output=output) == 0
    return output


def test_files_lie_at_the_root_with_their_contents(model: Path, tmp_path: Path) -> None:
    with tarfile.open(packed(model, tmp_path)) as archive:
        assert sorted(archive.getnames()) == ["code/inference.py", "code/run.sh", pack_command.RECORD, "model.onnx"]
        assert all(m.isreg() for m in archive.getmembers())
        data = archive.extractfile("model.onnx")
        assert data is not None and data.read() == b"\x00" * 1000


def test_anybody_may_read_and_only_programs_run(model: Path, tmp_path: Path) -> None:
    modes = {name: m.mode for name, m in members(packed(model, tmp_path)).items()}
    assert modes == {"code/inference.py": 0o644, "code/run.sh": 0o755, "model.onnx": 0o644, pack_command.RECORD: 0o644}
    assert {(m.uid, m.gid, m.mtime) for m in members(tmp_path / "model.tar.gz").values()} == {(0, 0, 0)}


def test_the_record_holds_the_sum_and_size_of_every_file(model: Path, tmp_path: Path) -> None:
    with tarfile.open(packed(model, tmp_path)) as archive:
        data = archive.extractfile(pack_command.RECORD)
        assert data is not None
        record = json.loads(data.read())
    expected = {
        name: {"sha256": hashlib.sha256((model / name).read_bytes()).hexdigest(), "bytes": (model / name).stat().st_size}
        for name in ("code/inference.py", "code/run.sh", "model.onnx")
    }
    assert record["files"] == expected
    assert record["backend"] == "handler" and record["name"] == "model"


def test_the_same_files_give_the_same_bytes(model: Path, tmp_path: Path) -> None:
    first = packed(model, tmp_path, "a.tar.gz").read_bytes()
    for path in model.rglob("*"):
        os.utime(path, (1e9, 1e9))
    (model / "code" / "__pycache__").mkdir()
    (model / "code" / "__pycache__" / "x.pyc").write_bytes(b"x")
    assert packed(model, tmp_path, "b.tar.gz").read_bytes() == first
    (model / "model.onnx").write_bytes(b"\x01" * 1000)
    assert packed(model, tmp_path, "c.tar.gz").read_bytes() != first


@pytest.mark.parametrize("target", ["model.onnx", "code", "nothing"])
def test_a_link_is_refused_by_name_and_nothing_is_left_behind(model: Path, tmp_path: Path, target: str) -> None:
    (model / "linked").symlink_to(model / target)
    output = tmp_path / "model.tar.gz"
    with pytest.raises(BadModel, match="linked is a symbolic link"):
        pack_command.pack(model, output=output)
    assert not output.exists() and not list(tmp_path.glob("*.part"))


def test_a_pipe_is_refused(model: Path, tmp_path: Path) -> None:
    os.mkfifo(model / "pipe")
    with pytest.raises(BadModel, match="pipe is not a regular file"):
        pack_command.pack(model, output=tmp_path / "model.tar.gz")


def test_a_tarball_inside_the_model_folder_does_not_pack_itself(model: Path) -> None:
    assert pack_command.pack(model, output=model / "model.tar.gz") == 0
    assert pack_command.pack(model, output=model / "model.tar.gz") == 0
    assert "model.tar.gz" not in members(model / "model.tar.gz")


@pytest.mark.parametrize("name", ["all.zip", "all", "all.tar"])
def test_a_name_that_says_something_else_than_a_gzip_tar_is_refused(model: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(BadModel, match=f"{name} would be a gzip tar under another name"):
        pack_command.pack(model, output=tmp_path / name)
    assert not (tmp_path / name).exists()


def test_an_old_record_is_replaced_and_not_packed_twice(model: Path, tmp_path: Path) -> None:
    (model / pack_command.RECORD).write_text("old")
    with tarfile.open(packed(model, tmp_path)) as archive:
        assert archive.getnames().count(pack_command.RECORD) == 1


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(BadModel, match="no model in"):
        pack_command.pack(tmp_path, output=tmp_path / "model.tar.gz")


def test_an_output_that_cannot_be_written_is_named(model: Path, tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="cannot write"):
        pack_command.pack(model, output=tmp_path / "none" / "model.tar.gz")


def test_what_is_packed_serves_again_when_unpacked(model: Path, tmp_path: Path) -> None:
    from evenkeel.serve.contract import manifest

    output = packed(model, tmp_path)
    with tarfile.open(output) as archive:
        archive.extractall(tmp_path / "again", filter="data")
    assert manifest.load(tmp_path / "again").backend == "handler"
