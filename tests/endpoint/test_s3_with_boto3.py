"""S3 on folders, called by boto3 over HTTP in this process."""

from __future__ import annotations

import asyncio
import io
import os
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import uvicorn
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

from evenkeel.endpoint.control.control_app import ControlApp
from evenkeel.endpoint.s3.object_folder import ObjectFolder
from evenkeel.endpoint.s3.s3_app import S3App


class Served:
    """The control plane's HTTP with nothing but S3 behind it, in a thread."""

    def __init__(self, folder: Path) -> None:
        app = ControlApp({}, S3App(ObjectFolder(folder)))
        self._server = uvicorn.Server(
            uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="off", http="httptools")
        )
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve()), daemon=True)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"
        self.s3: Any = boto3.client(
            "s3", endpoint_url=self.url, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b",
            config=Config(retries={"total_max_attempts": 1}, proxies={}),
        )  # fmt: skip

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path / "s3")
    made.s3.create_bucket(Bucket="data")
    yield made
    made.stop()


def refused(call: Any, **params: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**params)
    return str(caught.value.response["Error"]["Code"])


def test_an_object_is_a_file_and_a_file_is_an_object(served: Served, tmp_path: Path) -> None:
    s3 = served.s3
    s3.put_object(Bucket="data", Key="a/b.txt", Body=b"hello", ContentType="text/plain", Metadata={"who": "me"})
    assert (tmp_path / "s3/data/a/b.txt").read_bytes() == b"hello"
    got = s3.get_object(Bucket="data", Key="a/b.txt")
    assert (got["Body"].read(), got["ContentType"], got["Metadata"]) == (b"hello", "text/plain", {"who": "me"})
    assert got["ETag"] == '"5d41402abc4b2a76b9719d911017c592"'
    (tmp_path / "s3/data/by-hand").write_bytes(b"put here")
    assert s3.head_object(Bucket="data", Key="by-hand")["ContentLength"] == 8
    (tmp_path / "s3/data/a/b.txt").write_bytes(b"changed")
    assert s3.get_object(Bucket="data", Key="a/b.txt")["ETag"] != got["ETag"]
    s3.delete_object(Bucket="data", Key="a/b.txt")
    s3.delete_object(Bucket="data", Key="a/b.txt")
    assert not (tmp_path / "s3/data/a").exists()


def test_a_large_object_comes_in_parts_and_is_read_in_ranges(served: Served, tmp_path: Path) -> None:
    data = os.urandom(12 << 20)
    served.s3.upload_fileobj(
        io.BytesIO(data), "data", "large.bin", Config=TransferConfig(multipart_threshold=6 << 20, multipart_chunksize=5 << 20)
    )
    assert served.s3.head_object(Bucket="data", Key="large.bin")["ETag"].endswith('-3"')
    back = io.BytesIO()
    served.s3.download_fileobj("data", "large.bin", back, Config=TransferConfig(multipart_threshold=1 << 20))
    assert back.getvalue() == data
    part = served.s3.get_object(Bucket="data", Key="large.bin", Range="bytes=100-199")
    assert part["Body"].read() == data[100:200] and part["ContentRange"] == f"bytes 100-199/{len(data)}"
    assert refused(served.s3.get_object, Bucket="data", Key="large.bin", Range="bytes=99999999-") == "InvalidRange"
    assert list((tmp_path / "s3-unfinished").iterdir()) == []


def test_an_upload_that_is_given_up_leaves_nothing(served: Served, tmp_path: Path) -> None:
    s3 = served.s3
    upload = s3.create_multipart_upload(Bucket="data", Key="k")["UploadId"]
    etag = s3.upload_part(Bucket="data", Key="k", UploadId=upload, PartNumber=1, Body=b"x")["ETag"]
    wrong = {"Parts": [{"PartNumber": 2, "ETag": etag}]}
    assert refused(s3.complete_multipart_upload, Bucket="data", Key="k", UploadId=upload, MultipartUpload=wrong) == "InvalidPart"
    wrong = {"Parts": [{"PartNumber": 1, "ETag": "../../x"}]}
    assert refused(s3.complete_multipart_upload, Bucket="data", Key="k", UploadId=upload, MultipartUpload=wrong) == "InvalidPart"
    s3.abort_multipart_upload(Bucket="data", Key="k", UploadId=upload)
    assert refused(s3.upload_part, Bucket="data", Key="k", UploadId=upload, PartNumber=1, Body=b"x") == "NoSuchUpload"
    assert list((tmp_path / "s3-unfinished").iterdir()) == []


def test_lists_copies_and_many_deletions(served: Served) -> None:
    s3 = served.s3
    for key in ("a/1", "a/2", "b c/ä", "d"):
        s3.put_object(Bucket="data", Key=key, Body=b"x")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket="data", PaginationConfig={"PageSize": 2})
    assert [o["Key"] for page in pages for o in page.get("Contents", [])] == ["a/1", "a/2", "b c/ä", "d"]
    rolled = s3.list_objects_v2(Bucket="data", Delimiter="/")
    assert [p["Prefix"] for p in rolled["CommonPrefixes"]] == ["a/", "b c/"] and [o["Key"] for o in rolled["Contents"]] == ["d"]
    s3.copy_object(Bucket="data", Key="e", CopySource={"Bucket": "data", "Key": "b c/ä"})
    assert s3.get_object(Bucket="data", Key="e")["Body"].read() == b"x"
    assert refused(s3.delete_bucket, Bucket="data") == "BucketNotEmpty"
    deleted = s3.delete_objects(
        Bucket="data", Delete={"Objects": [{"Key": k} for k in ("a/1", "a/2", "b c/ä", "d", "e", "none")]}
    )
    assert len(deleted["Deleted"]) == 6
    s3.delete_bucket(Bucket="data")
    assert s3.list_buckets()["Buckets"] == []


def test_what_cannot_be_is_refused_in_s3s_words(served: Served, tmp_path: Path) -> None:
    s3 = served.s3
    assert refused(s3.get_object, Bucket="data", Key="none") == "NoSuchKey"
    assert refused(s3.get_object, Bucket="other", Key="k") == "NoSuchBucket"
    assert refused(s3.head_object, Bucket="data", Key="none") == "404"
    assert refused(s3.create_bucket, Bucket="data") == "BucketAlreadyOwnedByYou"
    assert refused(s3.put_object, Bucket="data", Key="../../outside", Body=b"x") == "InvalidArgument"
    assert refused(s3.get_bucket_versioning, Bucket="data") == "NotImplemented"
    assert refused(s3.put_object, Bucket="data", Key="k", Body=b"x", ContentMD5="AAAAAAAAAAAAAAAAAAAAAA==") == "BadDigest"
    s3.put_object(Bucket="data", Key="file", Body=b"x")
    assert refused(s3.put_object, Bucket="data", Key="file/below", Body=b"x") == "InvalidArgument"
    assert not (tmp_path / "outside").exists() and list((tmp_path / "s3-unfinished").iterdir()) == []


def test_a_presigned_link_is_read_by_anyone_here(served: Served) -> None:
    served.s3.put_object(Bucket="data", Key="k", Body=b"for you")
    link = served.s3.generate_presigned_url("get_object", Params={"Bucket": "data", "Key": "k"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(link, timeout=10) as reply:
        assert reply.read() == b"for you"
