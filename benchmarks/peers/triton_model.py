"""The model behind Triton's python backend: one instance, one onnxruntime call for each batch that Triton gathers.

The python backend is the only one in the wheel that brings tritonserver (see triton_start.py). It loads this file as
model.py and gives it `triton_python_backend_utils`.
"""

import os
import sys

# The stub that runs this is a program of its own that knows no virtual environment and no PYTHONPATH.
sys.path[:0] = os.environ["BENCH_PYTHON_FOLDERS"].split(os.pathsep)

import numpy as np  # noqa: E402
import triton_python_backend_utils as pb  # noqa: E402
from model_session import Model, settings  # noqa: E402


class TritonPythonModel:
    def initialize(self, args):
        self.model = Model(settings())

    def execute(self, requests):
        rows = [pb.get_input_tensor_by_name(r, "x").as_numpy() for r in requests]
        answers = self.model.run(np.concatenate(rows) if len(rows) > 1 else rows[0])
        responses, start = [], 0
        for x in rows:
            responses.append(pb.InferenceResponse([pb.Tensor("y", answers[start : start + len(x)])]))
            start += len(x)
        return responses
