"""Bytes <-> named arrays: one file per format, a registry by MIME type. Pure, and free of any framework."""

from serve.codec.codec import Body, Codec, Decoded, DecodeRow, Form, RowsCodec
from serve.codec.media import Media, parse_media
from serve.codec.plan import Plan, plan_of
from serve.codec.registry import CODECS, decoder_for, negotiate

__all__ = [
    "CODECS",
    "Body",
    "Codec",
    "DecodeRow",
    "Decoded",
    "Form",
    "Media",
    "Plan",
    "RowsCodec",
    "decoder_for",
    "negotiate",
    "parse_media",
    "plan_of",
]
