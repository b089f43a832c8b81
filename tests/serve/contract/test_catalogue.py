"""What a model folder holds, and how versions are ordered."""

from __future__ import annotations

from pathlib import Path

import pytest

from evenkeel.serve.contract import catalogue, manifest
from evenkeel.serve.errors import BadModel


def made(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "model.onnx").write_bytes(b"")
    return root


def test_a_folder_with_a_model_in_it_is_plain_whatever_else_lies_there(tmp_path: Path) -> None:
    (made(tmp_path, "m/1") / "model.toml").write_text("")
    found = catalogue.read(tmp_path)
    assert (found.name, found.versions, found.path("")) == ("", (), tmp_path)


def test_versions_are_the_folders_with_a_model_in_them(tmp_path: Path) -> None:
    made(tmp_path, "m/2", "m/10", "m/.half-copied", "lost+found")
    (tmp_path / "m" / "notes").mkdir()
    found = catalogue.read(tmp_path)
    assert (found.name, found.versions, found.path("10")) == ("m", ("2", "10"), tmp_path / "m" / "10")


def test_a_project_with_a_folder_of_models_holds_no_versions(tmp_path: Path) -> None:
    folder = made(tmp_path, "model_artifacts/digits", "model_artifacts/wine")
    assert catalogue.read(folder).versions == ("digits", "wine"), "versions may have any name"
    (folder / "pyproject.toml").touch()
    assert (catalogue.read(folder).name, catalogue.read(folder).versions) == ("", ())


def test_the_highest_version_is_chosen_unless_another_is_wanted(tmp_path: Path) -> None:
    found = catalogue.read(made(tmp_path, "m/9", "m/10"))
    assert found.choose("") == "10" and found.choose("9") == "9"
    with pytest.raises(BadModel, match=r"no version .3. .* there is 9, 10"):
        found.choose("3")


def test_digits_compare_as_numbers_and_the_rest_as_text() -> None:
    mixed = ["10", "9", "1.10", "1.9", "v2", "v10", "2-rc1", "2.1", "2", "2024-11-02", "2024-2-1"]
    assert sorted(mixed, key=catalogue.order) == [
        "v2", "v10", "1.9", "1.10", "2", "2-rc1", "2.1", "9", "10", "2024-2-1", "2024-11-02"]  # fmt: skip


def test_versions_of_two_models_and_strange_names_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"2 models \(a, b\)"):
        catalogue.read(made(tmp_path / "two", "a/1", "b/1"))
    with pytest.raises(BadModel, match="'1 beta' is no name"):
        catalogue.read(made(tmp_path / "one", "a/1 beta"))


def test_a_version_is_wanted_of_a_folder_without_any(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="NAME/VERSION/"):
        catalogue.read(made(tmp_path, "x").joinpath("x")).choose("2")


def test_the_folders_name_a_version_and_its_manifest_may_only_repeat_it(tmp_path: Path) -> None:
    folder = made(tmp_path, "m/2") / "m" / "2"
    assert (lambda f: (f.name, f.version))(manifest.load(folder, "m", "2")) == ("m", "2")
    (folder / "model.toml").write_text('version = "2"\n')
    assert manifest.load(folder, "m", "2").version == "2"
    (folder / "model.toml").write_text('version = "3"\n')
    with pytest.raises(BadModel, match="version = '3', but the folder says '2'"):
        manifest.load(folder, "m", "2")
