#!/bin/bash
# Installs the servers that `make bench` compares with, each in a virtual environment of its own:
#   benchmarks/peers/install.sh [FOLDER]     FOLDER: $EVENKEEL_BENCH_PEERS, else benchmarks/.peers (about 850 MB)
#   WITH_RAY=1 benchmarks/peers/install.sh   Ray Serve, too
#
# Triton comes out of the nvidia-pytriton wheel, which bundles the tritonserver binary. Its Python stub brings its own
# libpython of an early 3.11 and takes the standard library from the environment: Debian's 3.11.2 works, with 3.11.7
# multiprocessing fails on `RLock has no attribute _recursion_count`. So that environment (`pytritond`) is made with
# $TRITON_PYTHON, by default the python3.11 of the system rather than the first in PATH.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
peers=${1:-${EVENKEEL_BENCH_PEERS:-$here/../.peers}}
python=${PYTHON:-python3.11}
triton_python=${TRITON_PYTHON:-$(command -v -p python3.11 || true)}
mkdir -p "$peers"

echo "mosec -> $peers/mosec"
[ -x "$peers/mosec/bin/python" ] || "$python" -m venv "$peers/mosec"
"$peers/mosec/bin/pip" install -q mosec onnxruntime numpy msgspec

echo "litserve -> $peers/litserve"
[ -x "$peers/litserve/bin/python" ] || "$python" -m venv "$peers/litserve"
"$peers/litserve/bin/pip" install -q litserve onnxruntime numpy msgspec

# Only when asked for: it is large (570 MB), and its HAProxy listens on 0.0.0.0:8404 and :9101 whatever it is told.
if [ "${WITH_RAY:-}" = 1 ]; then
  echo "ray -> $peers/ray"
  [ -x "$peers/ray/bin/python" ] || "$python" -m venv "$peers/ray"
  "$peers/ray/bin/pip" install -q 'ray[serve]' onnxruntime numpy msgspec
fi

if [ -z "$triton_python" ]; then
  echo "triton: skipped, it needs a python3.11 (set TRITON_PYTHON to one of 3.11.0 to 3.11.2)" >&2
  exit 0
fi
version=$("$triton_python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
case $version in
  3.11.[0-2]) ;;
  *) echo "triton: $triton_python is $version; its stub is known to work with 3.11.0 to 3.11.2 only" >&2 ;;
esac
echo "triton -> $peers/pytritond ($version)"
# Debian's python3.11 may come without ensurepip, so the environment has no pip of its own: mosec's installs into it.
[ -x "$peers/pytritond/bin/python" ] || "$triton_python" -m venv --without-pip "$peers/pytritond"
"$peers/mosec/bin/pip" --python "$peers/pytritond/bin/python" install -q nvidia-pytriton onnxruntime numpy msgspec
echo "done"
