"""Bytes <-> named arrays: one file per format, a registry by MIME type. Pure, and free of any framework."""

from evenkeel.serve.codec.codec import Body, Codec, Decoded, DecodeRow, Form, RowsCodec
from evenkeel.serve.codec.codec_plan import CodecPlan, plan_of
from evenkeel.serve.codec.media import Media, parse_media
from evenkeel.serve.codec.registry import CODECS, decoder_for, negotiate

__all__ = [
    "CODECS",
    "Body",
    "Codec",
    "CodecPlan",
    "DecodeRow",
    "Decoded",
    "Form",
    "Media",
    "RowsCodec",
    "decoder_for",
    "negotiate",
    "parse_media",
    "plan_of",
]
