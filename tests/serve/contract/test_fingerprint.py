"""The sha256 of a model folder."""

from __future__ import annotations

import subprocess
from pathlib import Path

from evenkeel.serve.contract.fingerprint import RECORD, sha256


def folder(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "model.onnx").write_bytes(b"weights")
    (tmp_path / "code/inference.py").write_text("x = 1\n")
    (tmp_path / "B").write_text("b")
    return tmp_path


def test_it_is_the_sum_of_what_sha256sum_prints(tmp_path: Path) -> None:
    command = "find -L * -type f | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum"
    told = subprocess.check_output(["sh", "-c", command], cwd=folder(tmp_path), text=True)
    assert sha256(tmp_path) == told.split()[0]


def test_a_changed_byte_a_new_name_and_a_new_file_each_change_it(tmp_path: Path) -> None:
    sums = {sha256(folder(tmp_path))}
    (tmp_path / "model.onnx").write_bytes(b"weighty")
    sums.add(sha256(tmp_path))
    (tmp_path / "B").rename(tmp_path / "C")
    sums.add(sha256(tmp_path))
    (tmp_path / "empty").touch()
    sums.add(sha256(tmp_path))
    assert len(sums) == 4


def test_what_pack_adds_and_python_leaves_behind_does_not_count(tmp_path: Path) -> None:
    before = sha256(folder(tmp_path))
    (tmp_path / RECORD).write_text("{}")
    (tmp_path / "code/__pycache__").mkdir()
    (tmp_path / "code/__pycache__/inference.cpython-311.pyc").write_bytes(b"x")
    assert sha256(tmp_path) == before


def test_links_to_files_count_by_their_content(tmp_path: Path) -> None:
    before = sha256(folder(tmp_path))
    (tmp_path / "model.onnx").rename(tmp_path.parent / f"{tmp_path.name}-elsewhere")
    (tmp_path / "model.onnx").symlink_to(tmp_path.parent / f"{tmp_path.name}-elsewhere")
    assert sha256(tmp_path) == before
