"""Becomes NVIDIA's tritonserver: the binary inside the nvidia-pytriton wheel, without pytriton's extra hop.

Lays out a model repository with the python backend under BENCH_SCRATCH, then replaces itself by the server. The wheel
carries no onnxruntime backend. Its Python stub needs the standard library of an early 3.11 (see install.sh).
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from model_session import Model, Settings, settings

HERE = Path(__file__).parent
CONFIG = """name: "m"
backend: "python"
max_batch_size: {rows_max}
input [{{ name: "x" data_type: TYPE_FP32 dims: {row} }}]
output [{{ name: "y" data_type: TYPE_FP32 dims: {answer} }}]
instance_group [{{ count: 1 kind: KIND_CPU }}]
dynamic_batching {{ max_queue_delay_microseconds: 0 }}
"""


def lay_out(scratch: Path, triton: Path, s: Settings) -> None:
    """The model repository, and the python backend with the stub of this Python version in it."""
    version = scratch / "models" / "m" / "1"
    version.mkdir(parents=True)
    shutil.copy(HERE / "triton_model.py", version / "model.py")
    model = Model(s)
    config = CONFIG.format(rows_max=s.rows_max, row=list(model.row_shape), answer=list(model.answer_shape))
    (version.parent / "config.pbtxt").write_text(config)
    backend = scratch / "backends" / "python"
    shutil.copytree(triton / "backends" / "python", backend)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copy(triton / "python_backend_stubs" / python / "triton_python_backend_stub", backend)


def main() -> None:
    scratch, packages = Path(os.environ["BENCH_SCRATCH"]), Path(sysconfig.get_paths()["purelib"])
    triton, s = packages / "pytriton" / "tritonserver", settings()
    lay_out(scratch, triton, s)
    os.environ["BENCH_PYTHON_FOLDERS"] = f"{HERE}{os.pathsep}{packages}"
    os.environ["LD_LIBRARY_PATH"] = str(packages / "nvidia_pytriton.libs")
    options = {
        "model-repository": scratch / "models",
        "backend-directory": scratch / "backends",
        "http-address": "127.0.0.1",
        "http-port": s.port,
        "http-thread-count": 2,
        "allow-grpc": "false",
        "allow-metrics": "false",
        "log-info": "false",
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    os.execv(triton / "bin" / "tritonserver", ["tritonserver", *arguments])


if __name__ == "__main__":
    main()
