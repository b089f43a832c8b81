"""`make push` prints the digest that the registry has, and refuses what SageMaker would not take: against scripted tools that
say what docker and podman say."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.tree import ROOT

PUSHED, LOCAL = "sha256:" + "05" * 32, "sha256:" + "b3" * 32
SCHEMA_2 = "application/vnd.docker.distribution.manifest.v2+json"
REPOSITORY = "registry.example/evenkeel"
TOOL = """#!/bin/sh
echo "$*" >> {calls}
case "$*" in
  *image.version*) echo 0.1.0 ;;
  *image.revision*) echo {revision} ;;
  *ManifestType*) [ -n "{local_kind}" ] && echo "{local_kind}" ;;
  *RepoDigests*) echo {repository}@{local} ;;
  "push --help") echo "usage: push {help}" ;;
  "push --digestfile "*) echo "Writing manifest"; printf %s {pushed} > "$3" ;;
  push*) echo "0.1.0: digest: {pushed} size: 1234" ;;
  "manifest inspect "*) [ -n "{remote_kind}" ] && echo '{{"mediaType": "{remote_kind}"}}' || exit 1 ;;
esac
"""


def push(
    tmp_path: Path, *, podman: bool, remote_kind: str = SCHEMA_2, local_kind: str = "", revision: str = "a" * 40
) -> subprocess.CompletedProcess[str]:
    tool = tmp_path / "tool"
    tool.write_text(TOOL.format(
        calls=tmp_path / "calls", revision=revision, local_kind=local_kind, remote_kind=remote_kind, repository=REPOSITORY,
        local=LOCAL, pushed=PUSHED, help="--digestfile FILE" if podman else "--quiet"))  # fmt: skip
    tool.chmod(0o755)
    return subprocess.run(
        [str(ROOT / "deploy" / "push-image"), "evenkeel:cpu", REPOSITORY], env={**os.environ, "DOCKER": str(tool)},
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip


@pytest.mark.contract("12.38")
@pytest.mark.parametrize("podman", [False, True], ids=["docker", "podman"])
def test_the_digest_that_is_printed_is_the_one_that_was_pushed(tmp_path: Path, podman: bool) -> None:
    done = push(tmp_path, podman=podman)
    assert (done.returncode, done.stdout) == (0, f"{REPOSITORY}@{PUSHED}\n"), done.stderr
    assert f"manifest inspect {REPOSITORY}@{PUSHED}" in (tmp_path / "calls").read_text()


@pytest.mark.contract("12.38")
def test_a_manifest_of_another_type_or_of_none_is_refused(tmp_path: Path) -> None:
    oci = push(tmp_path, podman=False, remote_kind="application/vnd.oci.image.index.v1+json")
    assert oci.returncode == 1 and oci.stdout == "" and "schema 2" in oci.stderr
    unknown = push(tmp_path, podman=True, remote_kind="")
    assert unknown.returncode == 1 and "could not be asked for" in unknown.stderr
    assert push(tmp_path, podman=True, remote_kind="", local_kind=SCHEMA_2).returncode == 0


def test_an_image_of_changed_files_is_not_pushed(tmp_path: Path) -> None:
    done = push(tmp_path, podman=False, revision="a" * 40 + "-dirty")
    assert done.returncode == 2 and "push" not in (tmp_path / "calls").read_text()
