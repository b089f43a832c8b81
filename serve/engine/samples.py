"""The samples of model.toml, answered as a request would be answered, and judged."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence

import numpy as np

from serve import codec
from serve.contract.manifest import SUFFIX_TYPES, Sample
from serve.contract.signature import Signature
from serve.engine import golden
from serve.engine.backends.base import Array, RawBackend, RawReply, RawRequest
from serve.engine.golden import Golden
from serve.engine.plan import decoded
from serve.engine.replica import Replica
from serve.errors import BadModel, EvenkeelError


def run_sample(replica: Replica, sample: Sample, judge: Golden) -> str:
    """Answer one sample and compare it with its golden output. Returns the answer's start. Raises BadModel."""
    label = f"sample {sample.input.name}"
    if replica.signature is None:
        reply = raw_reply(replica.backend, sample)
        answer, mime = reply.body, reply.content_type
    else:
        answer, mime = _tensor_answer(replica, replica.signature, sample, judge)
    if sample.output is not None:
        expected = sample.output.read_bytes()
        judge.judge(label, golden.compare(answer, expected, mime, sample.rtol, sample.atol))
    return answer[:200].decode("utf-8", "replace")


def raw_request(sample: Sample) -> RawRequest:
    return RawRequest(sample.input.read_bytes(), sample.content_type, _accept(sample), "warm-up")


def raw_reply(backend: RawBackend, sample: Sample) -> RawReply:
    reply = backend.handle([raw_request(sample)])[0]
    if isinstance(reply, EvenkeelError):
        raise BadModel(f"sample {sample.input.name} fails: {reply.code}: {reply.message}") from reply
    if isinstance(reply, Exception):
        raise reply
    return reply


def _tensor_answer(replica: Replica, signature: Signature, sample: Sample, judge: Golden) -> tuple[bytes, str]:
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
    outputs = [np.asarray(a) for a in replica.backend.run(gather.padded(arrays, key))]
    checked = scatter.checked(outputs, len(arrays[0]) if signature.rows_axis else 1)
    if isinstance(checked, str):
        raise BadModel(checked)
    return scatter.crop(checked, actual, key)


def _accept(sample: Sample) -> str:
    """The answer is asked for in the format of the expected file."""
    return SUFFIX_TYPES.get(sample.output.suffix, "") if sample.output else ""


# Rehearsals -----------------------------------------------------------------------------------------------------------

REHEARSALS_MAX, REHEARSAL_BYTES_MAX = 4, 64 * 1024  # what fronts send once before traffic comes travels in the card


def rehearsals(replica: Replica, row: Sequence[Array] | None) -> list[dict[str, str]]:
    """Request bodies for the fronts: one sample of each content type, else `row` as JSON. None for a bare handler."""
    bodies: dict[str, bytes] = {}
    for sample in replica.manifest.samples:
        if sample.content_type not in bodies and sample.input.stat().st_size <= REHEARSAL_BYTES_MAX:
            bodies[sample.content_type] = sample.input.read_bytes()
    if not bodies and row is not None and replica.signature is not None:
        bodies["application/json"] = _as_json(row, replica.signature)
    chosen = [(kind, body) for kind, body in bodies.items() if len(body) <= REHEARSAL_BYTES_MAX][:REHEARSALS_MAX]
    return [{"content_type": kind, "body": base64.b64encode(body).decode()} for kind, body in chosen]


def _as_json(row: Sequence[Array], signature: Signature) -> bytes:
    """{"inputs": {name: array}}, which every signature takes. bfloat16 is shown as its value, made-up rows hold ones."""
    named = {
        s.name: (np.ones(a.shape) if s.dtype == "bfloat16" else a).tolist() for s, a in zip(signature.inputs, row, strict=True)
    }
    return json.dumps({"inputs": named}).encode()
