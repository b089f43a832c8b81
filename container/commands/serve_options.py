"""`evenkeel serve` with options: each stands for a setting, and goes before its variable.

Without any, as containers start it, serve_command.py runs at once and this file is not even read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from evenkeel.container import environment
from evenkeel.container.commands import model_folder, serve_command
from evenkeel.container.environment import Given
from evenkeel.serve.errors import BadSetting


def serve(
    folder: Annotated[Path | None, Parameter(help="the model's folder, in place of EVENKEEL_MODEL_DIR")] = None,
    /,
    *,
    port: Annotated[int | None, Parameter(help="of requests (8080; 0: any that is free)")] = None,
    page: Annotated[str | None, Parameter(help="PORT or HOST:PORT of the page for people (127.0.0.1:9090)")] = None,
    replicas: Annotated[int | None, Parameter(help="copies of the model, each in its own process")] = None,
    set: Annotated[
        tuple[str, ...],
        Parameter(negative="", show_default=False, help="NAME=VALUE: any setting of docs/settings.md; may be repeated"),
    ] = (),
    environ: Annotated[Mapping[str, str], Parameter(parse=False)],
) -> int:
    """Serve a model: a folder with model.onnx, model.pt2, model.pt or code/inference.py. Ctrl-C stops it.

    Examples:

        evenkeel serve my-model
        evenkeel serve my-model --port 9000 --page 9091 --replicas 2
        evenkeel serve my-model --set request_timeout_s=5 --set EVENKEEL_LOG=json

    On a terminal it shows one line while the model warms up, then how to ask it; below come warnings, errors and what the
    model prints. `--set log=text` shows all lines. Everywhere else each line is a JSON object.

    Exit codes: 0 stopped as it was told, 1 it cannot start or gave up, and why.
    """
    options = given(folder, port, page, replicas, set)
    if folder is not None:
        model_folder.existing(folder)
    return serve_command.main(environ, options)


def given(
    folder: Path | None, port: int | None, page: str | None, replicas: int | None, sets: tuple[str, ...]
) -> dict[str, Given]:
    """The options by the variable that each stands for. Raises BadSetting."""
    found: dict[str, Given] = {}
    for text in sets:
        name, equals, value = text.partition("=")
        if not equals:
            raise BadSetting(f"--set {text} must be NAME=VALUE, such as --set request_timeout_s=5")
        try:
            variable = environment.named(name)
        except BadSetting as e:
            raise BadSetting(f"--set {name}: {e.message}") from None
        found[variable] = Given(f"--set {name}", value)
    if page is not None and port and page.rpartition(":")[2] == str(port):
        raise BadSetting(f"--port and --page are the same, {port}: the page needs a port of its own")
    options = {
        "EVENKEEL_MODEL_DIR": ("FOLDER", folder), "SAGEMAKER_BIND_TO_PORT": ("--port", port),
        "EVENKEEL_SIDECAR_ADDRESS": ("--page", None if page is None else page if ":" in page else f"127.0.0.1:{page}"),
        "EVENKEEL_REPLICAS": ("--replicas", replicas),
    }  # fmt: skip
    return found | {name: Given(option, str(value)) for name, (option, value) in options.items() if value is not None}
