"""What a requirements.txt asks for that is not here, and why pip gave up."""

from __future__ import annotations

from pathlib import Path

import pytest

from evenkeel.container.supervise.requirements import differing, file_of, reason_of

HERE = {"scikit-learn": "1.9.1", "numpy": "2.4.0", "Jinja2": "3.1"}


@pytest.mark.parametrize(("line", "told"), [
    ("scikit-learn==1.2.2", ["scikit-learn 1.2.2 (here 1.9.1)"]),
    ("scikit_learn == 1.9.1  # as trained", []),
    ("nobody", ["nobody (absent)"]),
    ("nobody[extra]>=1,<2 ; python_version > '3'", ["nobody (absent)"]),
    ("numpy>=1.20", []),
    ("jinja2", []),
    ("# numpy==1", []),
    ("", []),
    ("--no-index", []),
    ("-r other.txt", []),
    ("./a.whl", []),
    ("git+https://host/x", []),
])  # fmt: skip
def test_only_what_is_plainly_another_is_told(line: str, told: list[str]) -> None:
    assert differing(f"{line}\nnumpy==2.4.0\n", HERE) == told


def test_the_reason_of_a_contradiction_names_both_sides() -> None:
    text = """ERROR: Cannot install numpy==1.26.4 because these package versions have conflicting dependencies.

The conflict is caused by:
    The user requested numpy==1.26.4
    The user requested (constraint) numpy==2.4.0

Additional help text
ERROR: ResolutionImpossible: for help visit https://pip.pypa.io/
"""
    assert reason_of(text) == "The user requested numpy==1.26.4; The user requested (as installed here) numpy==2.4.0"


def test_any_other_reason_is_pips_last_error() -> None:
    assert (
        reason_of("WARNING: x\nERROR: No matching distribution found for nobody\nbye")
        == "No matching distribution found for nobody"
    )
    assert reason_of("") == ""


@pytest.mark.parametrize(("names", "program", "found"), [
    (["code/requirements.txt", "requirements.txt", "run.py"], "run.py", "code/requirements.txt"),
    (["requirements.txt", "run.py"], "run.py", "requirements.txt"),
    (["src/requirements.txt", "src/run.py"], "src/run.py", "src/requirements.txt"),
    (["requirements.txt", "model.onnx"], "", None),
    (["run.py"], "run.py", None),
])  # fmt: skip
def test_it_lies_in_code_or_beside_the_script(tmp_path: Path, names: list[str], program: str, found: str | None) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert file_of(tmp_path, program) == (tmp_path / found if found else None)
