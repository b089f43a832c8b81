"""A model folder whose handler yields what its requests ask for, and writes down what becomes of its generators."""

from __future__ import annotations

import json
from pathlib import Path

INFERENCE = """
import json, os, time

NOTES = "@notes@"

def note(*words):
    with open(NOTES, "a") as notes:
        print(*words, file=notes, flush=True)

def model_fn(model_dir):
    return None

def transform_fn(model, body, content_type, accept, context):
    ask = json.loads(body)
    if "whole" in ask:
        return json.dumps(ask["whole"])
    if ask.get("type"):
        return records(ask, context), ask["type"]
    return records(ask, context)

def records(ask, context):
    name, made = ask.get("name", "?"), 0
    note("begun", name)
    if ask.get("attributes"):
        context.set_response_header(0, "X-Amzn-SageMaker-Custom-Attributes", ask["attributes"])
    if ask.get("fail at") == -1:
        raise ValueError("before the first")
    try:
        for i in range(ask["n"]):
            if i == ask.get("fail at"):
                raise ValueError("tired of it")
            if i == ask.get("die at"):
                os._exit(9)
            if i == ask.get("hang at"):
                time.sleep(3600)
            while i == ask.get("wait at") and not os.path.exists(ask["for"]):
                time.sleep(0.01)
            time.sleep(ask.get("s", 0))
            made += 1
            yield {"i": i} if "say" not in ask else ask["say"] * ask.get("times", 1)
    except GeneratorExit:
        note("left", name, made)
        raise
    note("done", name, made)
"""


def stream_folder(to: Path, notes_at: str = "") -> tuple[Path, Path]:
    """The folder, and the file in which the handler takes its notes. `notes_at`: where the handler finds it, in a container."""
    (to / "model" / "code").mkdir(parents=True)
    notes = to / "notes.txt"
    notes.touch()
    (to / "model" / "code" / "inference.py").write_text(INFERENCE.replace("@notes@", notes_at or str(notes)))
    return to / "model", notes


def ask_for(n: int, name: str = "?", **more: object) -> bytes:
    return json.dumps({"n": n, "name": name, **more}).encode()
