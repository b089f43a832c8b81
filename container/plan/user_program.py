"""Which file is the handler, by SAGEMAKER_PROGRAM and SAGEMAKER_SUBMIT_DIRECTORY as the SageMaker SDK sets them. Pure.

The SDK names the script, and where it has put it: a folder inside the model when it has packed it into model.tar.gz, else an
archive in S3, which AWS's containers fetch and we do not.
"""

from __future__ import annotations

import os.path
from pathlib import Path, PurePosixPath

from evenkeel.serve.errors import BadSetting

AWS_MODEL_DIR = "/opt/ml/model"  # whatever EVENKEEL_MODEL_DIR says, the SDK means this
USUAL_FOLDERS = ("code", ".")  # where a handler is looked for anyway
USUAL_PROGRAM = "inference.py"


def user_program(program: str, submit_directory: str, model_dir: Path) -> str:
    """The handler's file in the model folder; "" is the usual one, if there is one. Raises BadSetting where the folder is
    another machine's or outside of the model."""
    if not submit_directory or is_elsewhere(submit_directory):
        return program
    folder = os.path.normpath(submit_directory.removeprefix("file://"))
    for root in (AWS_MODEL_DIR, os.path.normpath(model_dir.absolute())):
        if PurePosixPath(folder).is_relative_to(root):
            within = str(PurePosixPath(folder).relative_to(root))
            return program if within in USUAL_FOLDERS else f"{within}/{program or USUAL_PROGRAM}"
    raise BadSetting(f"SAGEMAKER_SUBMIT_DIRECTORY={submit_directory!r} is outside of the model folder {model_dir}: put the "
                     "scripts into its folder code, and leave the variable out")  # fmt: skip


def is_elsewhere(submit_directory: str) -> bool:
    """In S3, or behind another such address."""
    return "://" in submit_directory and not submit_directory.startswith("file://")
