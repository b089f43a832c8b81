from __future__ import annotations

import subprocess
import sys

import pytest

from evenkeel.serve.contract.manifest import BACKENDS
from evenkeel.serve.engine.backends import loader
from evenkeel.serve.errors import BadModel


def test_every_backend_a_manifest_may_name_can_be_loaded() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    assert all(callable(loader(name)) for name in BACKENDS)


@pytest.mark.parametrize("name", ["echo", "handler"])
def test_a_backend_without_a_framework_imports_none(name: str) -> None:
    code = f"from evenkeel.serve.engine.backends import loader; loader('{name}'); import sys; " \
           "print({'torch', 'onnxruntime', 'sklearn'} & set(sys.modules))"  # fmt: skip
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_a_framework_missing_from_the_image_is_said_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [name for name in sys.modules if name.startswith("evenkeel.serve.engine.backends.pytorch.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(
        BadModel, match=r"backend = 'pytorch' cannot start: import of torch halted.*use the image.*pip install torch=="
    ):
        loader("pytorch")
