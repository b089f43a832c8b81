"""Model folders whose model is a Python handler, as evenkeel serves them: `code/inference.py`, and the work beside it."""

from __future__ import annotations

import shutil
from pathlib import Path

WORK = Path(__file__).parent.parent / "peers" / "work.py"

_JSON_ROWS = '''"""JSON in, a model's work, JSON out."""
import numpy as np
import orjson
import work


def model_fn(model_dir):
    return work.predict


def input_fn(body, content_type):
    return np.array(orjson.loads(body)["instances"], np.float32)

{predict}

def output_fn(prediction, accept):
    return orjson.dumps({{"predictions": prediction.tolist()}}), "application/json"
'''
_EACH = """
def predict_fn(rows, model):
    return model(rows)
"""
_TOGETHER = """
PREDICT_TAKES_BATCH = True


def predict_fn(items, model):
    answers = model(np.concatenate(items))
    return np.split(answers, np.cumsum([len(rows) for rows in items])[:-1])
"""
_TEXTS = '''"""Texts in, labels out."""
import orjson
import work


def model_fn(model_dir):
    return work.tag


def input_fn(body, content_type):
    return orjson.loads(body)["instances"]


def predict_fn(texts, model):
    return [model(text) for text in texts]


def output_fn(prediction, accept):
    return orjson.dumps({"predictions": prediction}), "application/json"
'''
_PICTURE = '''"""A picture in, facts out."""
import orjson
import work


def model_fn(model_dir):
    return work.describe


def input_fn(body, content_type):
    return body


def predict_fn(picture, model):
    return model(picture)


def output_fn(prediction, accept):
    return orjson.dumps(prediction), "application/json"
'''
_TENSOR = '''"""A large NPY file in, decoded by the server; one number out."""
import io

import numpy as np
import work


def model_fn(model_dir):
    return work.average


def predict_fn(tensor, model):
    return model(tensor)


def output_fn(prediction, accept):
    file = io.BytesIO()
    np.save(file, prediction)
    return file.getvalue(), "application/x-npy"
'''
SCRIPTS = {
    "table": _JSON_ROWS.format(predict=_EACH),
    "together": _JSON_ROWS.format(predict=_TOGETHER),
    "texts": _TEXTS,
    "picture": _PICTURE,
    "tensor": _TENSOR,
}


def ensure(root: Path) -> None:
    """Writes the folders anew, since that costs nothing."""
    for name, script in SCRIPTS.items():
        code = root / name / "code"
        code.mkdir(parents=True, exist_ok=True)
        (code / "inference.py").write_text(script)
        shutil.copy(WORK, code / "work.py")
