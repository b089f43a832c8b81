"""application/octet-stream: the little-endian bytes of one tensor of fixed row size, and nothing else.

The number of rows is the length of the body over the bytes of a row. bfloat16 travels as its own two bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import numpy as np

from evenkeel.serve.codec.codec import ROOM_BYTES, Array, Body, Decoded, Form
from evenkeel.serve.codec.codec_plan import STORED, plan_of
from evenkeel.serve.codec.decoded_size import QUICK_OUTPUT_BYTES
from evenkeel.serve.codec.fit import finish
from evenkeel.serve.codec.npy import check_bools
from evenkeel.serve.contract.signature import Signature
from evenkeel.serve.errors import BadRequest, BadShape, NotAcceptable, UnsupportedMedia

assert sys.byteorder == "little", "arrays are handed over as they lie in memory"


class Raw:
    mime = "application/octet-stream"
    quick_output_bytes = QUICK_OUTPUT_BYTES

    def decode(self, body: Body, signature: Signature, params: Mapping[str, str], room: int = ROOM_BYTES) -> Decoded:
        plan = plan_of(signature)
        if plan.row_dtype is not None and body and not len(body) % plan.row_dtype.itemsize:
            array = np.frombuffer(body, plan.row_dtype)
            return Decoded(len(array), (array,), Form.INSTANCES)
        spec = plan.single
        row_bytes = None if spec is None else spec.row_bytes
        if spec is None or not row_bytes:
            raise UnsupportedMedia(f"{self.mime} needs a model with one input of numbers and fixed shape: use "
                                   "application/json, application/x-npy or application/x-npz")  # fmt: skip
        if not body:
            raise BadRequest("the body is empty")
        rows, rest = divmod(len(body), row_bytes)
        if rest or (rows != 1 and not signature.rows_axis):
            times = " or a multiple of it" if signature.rows_axis else ""
            raise BadShape(f"expected {spec.describe(signature.rows_axis)}, so {row_bytes} bytes{times}; got {len(body)}")
        dims = tuple(dim for dim in spec.dims if isinstance(dim, int))
        array = np.frombuffer(body, STORED[spec.dtype]).reshape((rows, *dims) if signature.rows_axis else dims)
        if spec.dtype == "bool":
            check_bools(array)
        return finish((array,), plan, Form.INSTANCES)

    def is_quick(self, body: Body, signature: Signature) -> bool:
        return True  # the bytes are the array

    def encode(self, arrays: Sequence[Array], signature: Signature, form: Form, finite: bool = False) -> bytes:
        if len(arrays) != 1 or signature.outputs[0].dtype == "string":
            raise NotAcceptable(f"{self.mime} carries one array of numbers: ask for application/json or application/x-npz")
        return arrays[0].tobytes()
