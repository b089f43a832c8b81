"""The samples of model.toml, answered as a request would be answered, and judged."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from evenkeel.serve import codec
from evenkeel.serve.contract.manifest import SUFFIX_TYPES, ModelSample
from evenkeel.serve.contract.signature import Signature
from evenkeel.serve.engine.backends.base import Array, RawReply, RawRequest, RawResult, RawStream
from evenkeel.serve.engine.models import golden
from evenkeel.serve.engine.models.golden import Golden
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.engine.models.warmup_plan import Shape, decoded
from evenkeel.serve.errors import BadModel, EvenkeelError


def run_sample(replica: Replica, sample: ModelSample, judge: Golden) -> str:
    """Answer one sample and compare it with its golden output. Returns the answer's start. Raises BadModel."""
    label = f"sample {sample.input.name}"
    if replica.signature is None:
        reply = raw_reply(replica, sample)
        answer, mime = reply.body, reply.content_type
    else:
        answer, mime = _tensor_answer(replica, replica.signature, sample, judge)
    if sample.output is not None:
        expected = sample.output.read_bytes()
        judge.judge_output(label, golden.compare(answer, expected, mime, sample.rtol, sample.atol))
    return answer[:200].decode("utf-8", "replace")


def raw_request(sample: ModelSample) -> RawRequest:
    return RawRequest(sample.input.read_bytes(), sample.content_type, _accept(sample), "warm-up")


def raw_reply(replica: Replica, sample: ModelSample) -> RawReply:
    reply = whole(replica.handle([raw_request(sample)])[0])
    if isinstance(reply, EvenkeelError):
        raise BadModel(f"sample {sample.input.name} fails: {reply.code}: {reply.message}") from reply
    if isinstance(reply, Exception):
        raise reply
    return reply


def whole(reply: RawResult) -> RawReply | Exception:
    """A streamed answer is run to its end and taken as one."""
    if not isinstance(reply, RawStream):
        return reply
    try:
        return RawReply(b"".join(reply.parts), reply.content_type, reply.custom_attributes)
    except EvenkeelError as e:
        return e


def _tensor_answer(replica: Replica, signature: Signature, sample: ModelSample, judge: Golden) -> tuple[bytes, str]:
    label = f"sample {sample.input.name}"
    request = decoded(sample, signature)
    try:
        outputs = _outputs(replica, request.arrays)
        judge.judge(label, golden.not_finite(outputs, signature))
        into = codec.decoder_for(sample.content_type)
        out = codec.negotiate(_accept(sample), into.mime, None)
        return out.encode(outputs, signature, request.form), out.mime
    except BadModel:
        raise
    except EvenkeelError as e:
        raise BadModel(f"{label} fails: {e.code}: {e.message}") from e


def _outputs(replica: Replica, arrays: tuple[Array, ...]) -> list[Array]:
    """As in service: filled up to the bucket of its shape, run, checked, cut back."""
    gather, scatter, signature = replica.gather, replica.scatter, replica.signature
    assert gather and scatter and signature, "tensor replicas have them all"
    actual = tuple(a.shape[signature.rows_axis :] for a in arrays)
    key = gather.key(actual)
    outputs = [np.asarray(a) for a in replica.run(gather.padded(arrays, key))]
    checked = scatter.checked(outputs, len(arrays[0]) if signature.rows_axis else 1)
    if isinstance(checked, str):
        raise BadModel(checked)
    return scatter.crop(checked, actual, key)


def _accept(sample: ModelSample) -> str:
    """The answer is asked for in the format of the expected file."""
    return SUFFIX_TYPES.get(sample.output.suffix, "") if sample.output else ""


# Rehearsals -----------------------------------------------------------------------------------------------------------

WARMUP_REQUESTS_MAX, WARMUP_REQUEST_BYTES_MAX = (
    8,
    64 * 1024,
)  # what fronts send once before traffic comes travels in the model info
WARMUP_ROWS = (1, 8)  # one row goes a shorter way than several


def warmup_requests(replica: Replica, shape: Shape | None) -> list[dict[str, str]]:
    """Request bodies for the fronts: samples, one of each content type, and rows as JSON and NPY, the usual formats.

    A handler gets its samples only.
    """
    bodies: dict[str, list[bytes]] = {}
    for sample in replica.manifest.samples:
        if sample.content_type not in bodies and sample.input.stat().st_size <= WARMUP_REQUEST_BYTES_MAX:
            bodies[sample.content_type] = [sample.input.read_bytes()]
    if shape is not None and replica.signature is not None:
        for rows in [n for n in WARMUP_ROWS if n <= replica.rows_max]:
            for kind, body in _made_bodies(shape.batch(rows), replica.signature):
                bodies.setdefault(kind, []).append(body)
    chosen = [(kind, body) for kind, some in bodies.items() for body in some if len(body) <= WARMUP_REQUEST_BYTES_MAX]
    return [{"content_type": kind, "body": base64.b64encode(body).decode()} for kind, body in chosen[:WARMUP_REQUESTS_MAX]]


def _made_bodies(arrays: Sequence[Array], signature: Signature) -> Iterator[tuple[str, bytes]]:
    """Empty where a row is too large: its texts would only be thrown away."""
    if sum(a.nbytes for a in arrays) > WARMUP_REQUEST_BYTES_MAX:
        return
    specs = signature.inputs
    # Of bfloat16, whose arrays hold bits, the text formats take the value. What value does not matter here.
    values = [np.ones(a.shape, np.float32) if s.dtype == "bfloat16" else a for s, a in zip(specs, arrays, strict=True)]
    if not signature.rows_axis:
        document: Any = {"inputs": {s.name: v.tolist() for s, v in zip(specs, values, strict=True)}}
    elif len(specs) == 1:
        document = {"instances": values[0].tolist()}
    else:
        rows = zip(*(v.tolist() for v in values), strict=True)
        document = {"instances": [dict(zip([s.name for s in specs], row, strict=True)) for row in rows]}
    yield "application/json", json.dumps(document).encode()
    if len(specs) == 1 and not values[0].dtype.hasobject:
        file = io.BytesIO()
        np.save(file, values[0])
        yield "application/x-npy", file.getvalue()
