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

from exchange import Exchange, OnnxModel, Settings, settings

HERE = Path(__file__).parent
CONFIG = """name: "m"
backend: "python"
max_batch_size: {rows_max}
input [{{ name: "x" data_type: TYPE_{kind} dims: {row} }}]
output [{{ name: "y" data_type: TYPE_{answer_kind} dims: {answer} }}]
instance_group [{{ count: 1 kind: KIND_CPU }}]
dynamic_batching {{ max_queue_delay_microseconds: 0 }}
"""

# type and shape of what goes in and of what comes out, of the models that are no ONNX files
HANDLERS = {
    "table": ("FP32", [8], "FP32", [8]),
    "together": ("FP32", [8], "FP32", [8]),
    "tensor": ("FP32", [3, 224, 224], "FP32", [1]),
    "texts": ("STRING", [1], "STRING", [1]),
    "picture": ("STRING", [1], "INT64", [2]),
}


def lay_out(scratch: Path, triton: Path, s: Settings) -> None:
    """The model repository, and the python backend with the stub of this Python version in it."""
    version = scratch / "models" / "m" / "1"
    version.mkdir(parents=True)
    shutil.copy(HERE / "triton_model.py", version / "model.py")
    kind, row, answer_kind, answer = HANDLERS.get(s.model) or of_onnx(Exchange(s).onnx)
    rows_max = s.rows_max if s.rows_max < 64 else 256  # rows here, where the other peers count requests
    config = CONFIG.format(rows_max=rows_max, kind=kind, row=row, answer_kind=answer_kind, answer=answer)
    (version.parent / "config.pbtxt").write_text(config)
    backend = scratch / "backends" / "python"
    shutil.copytree(triton / "backends" / "python", backend)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copy(triton / "python_backend_stubs" / python / "triton_python_backend_stub", backend)


def of_onnx(model: OnnxModel) -> tuple[str, list[int], str, list[int]]:
    return "FP32", list(model.row_shape), "FP32", list(model.answer_shape)


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
