from __future__ import annotations

import re
import subprocess
import sys

import pytest

from evenkeel.serve.contract.manifest import BACKENDS
from evenkeel.serve.engine.backends import loader


def test_every_backend_a_manifest_may_name_can_be_loaded() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    assert all(callable(loader(name)) for name in BACKENDS)


@pytest.mark.parametrize("name", ["echo", "handler"])
def test_a_backend_without_a_framework_imports_none(name: str) -> None:
    code = f"from evenkeel.serve.engine.backends import loader; loader('{name}'); import sys; " \
           "print({'torch', 'onnxruntime', 'sklearn'} & set(sys.modules))"  # fmt: skip
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_a_framework_missing_from_the_image_is_said_plainly() -> None:
    """In a process of its own: modules that are loaded twice would not be those that other tests look at."""
    code = "import sys; sys.modules['torch'] = None\n" \
           "from evenkeel.serve.engine.backends import loader\nloader('pytorch')"  # fmt: skip
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr
    assert re.search(
        r"BadModel: backend = 'pytorch' cannot start: import of torch halted.*use the image.*pip install torch==", told
    )
