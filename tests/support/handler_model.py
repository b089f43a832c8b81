"""A model folder whose handler does what its requests ask for: answer, wait, raise, print, exit, hang, die; and be held."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

INFERENCE = """
import json, logging, os, subprocess, sys, time

KEPT = []

def model_fn(model_dir):
    print("loading from", os.path.basename(model_dir))
    return 2

def input_fn(body, content_type):
    data = json.loads(body)
    if data.get("do") == "raise in input_fn":
        raise KeyError("no such field")
    return data

def act(data):
    do, say = data.get("do"), data.get("say", "")
    if do == "wait":
        print("begun", data["x"])
        time.sleep(data["s"])
    elif do == "hold":
        print("begun", data["x"])
        while not os.path.exists(data["gate"]):
            time.sleep(0.002)
    elif do == "raise":
        raise ValueError(say)
    elif do == "raise from":
        try:
            1 / 0
        except ZeroDivisionError as e:
            raise RuntimeError(say) from e
    elif do == "print":
        print(say)
        print(say, file=sys.stderr)
        sys.stdout.write("no newline at the end")
        sys.stdout.flush()
        logging.getLogger("mine").warning("a warning: %s", say)
    elif do == "print below":
        os.write(1, b"written to descriptor 1\\n")
        os.write(2, b"written to descriptor 2\\n")
        subprocess.run(["echo", "from a child"])
    elif do == "exit":
        sys.exit(data.get("code", 0))
    elif do == "interrupt":
        raise KeyboardInterrupt
    elif do == "die":
        os._exit(7)
    elif do == "abort":
        os.abort()
    elif do == "hang":
        print("hanging", data["x"])
        while True:
            time.sleep(1)
    elif do == "busy hang":
        while True:
            pass
    elif do == "leak":
        KEPT.append(b"x" * data["size"])
    elif do == "nan":
        return float("nan")
    elif do == "none":
        return None
    elif do == "object":
        return object()
    elif do == "large":
        return "v" * data["size"]
    return data["x"] * 2
"""
ALONE = """
def predict_fn(data, model):
    return {"x": act(data)}

def output_fn(prediction, accept):
    return json.dumps(prediction, allow_nan=prediction["x"] == prediction["x"]) if prediction["x"] is not None else None
"""
BATCHED = """
PREDICT_TAKES_BATCH = True

def predict_fn(items, model):
    print("batch of", len(items))
    if any(i.get("do") == "too few" for i in items):
        return []
    if any(i.get("do") == "no list" for i in items):
        return {"x": 1}
    if any(i.get("do") == "a set" for i in items):
        return {1}
    if any(i.get("do") == "one number" for i in items):
        import numpy
        return numpy.array(3.0)
    return [{"x": act(i), "together": len(items)} for i in items]
"""


def handler_folder(to: Path, *, batched: bool = False) -> Path:
    (to / "code").mkdir(parents=True)
    (to / "code" / "inference.py").write_text(INFERENCE + (BATCHED if batched else ALONE))
    return to


class Gate:
    """Holds the requests that name it until it is opened, however long a busy machine takes for what comes before. The handler
    must see the folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"gate-{uuid.uuid4().hex}"

    def hold(self, x: int) -> bytes:
        return asking(x, "hold", gate=str(self._path))

    def open(self) -> None:
        self._path.touch()


def asking(x: int, do: str = "", **more: object) -> bytes:
    return json.dumps({"x": x, "do": do, **more}).encode()
