"""`make load`: start what is asked for, or use a URL; load it with Locust; print, plot, and judge by objectives.

    make load                                                     the digits model on a free port, 10 s
    make load URL=http://host:8080 SCENARIO=file BODY=request.json P99_MS=50 FAILURES=0 RPS=200
    make load IMAGE=evenkeel:cpu SECONDS=20 FAILURES=0            the image, by docker run

Exit code 0: all objectives kept; 1: one was missed; 2: it could not be tried.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.load import objectives, picture
from tests.support.tree import ARTIFACTS, ROOT, Tree, eventually, free_port

SCENARIOS = {
    "json": ["JsonUser"], "npy": ["NpyUser"], "mixed": ["JsonUser", "NpyUser", "MixedUser"], "file": ["FileUser"],
    "rolling": ["RollingUser", "Balancer"],
}  # fmt: skip
DOCKER = os.environ.get("DOCKER") or "docker"
START_S, STOP_S = 120.0, 40
QUIET_S = "2"  # of containers in the rolling restart: the balancer looks five times a second


def main() -> int:
    options = read()
    with tempfile.TemporaryDirectory() as folder:
        result_path = Path(folder) / "result.json"
        with contextlib.ExitStack() as stack:
            hosts = stack.enter_context(served(options))
            environ = {
                **os.environ, "LOAD_RESULT": str(result_path), "LOAD_HOSTS": ",".join(hosts), "LOAD_BODY": options.body,
                "LOAD_TYPE": options.type, "LOAD_RATE": str(options.rate / options.users),
            }  # fmt: skip
            classes = [*SCENARIOS[options.scenario], *(["PingUser"] if options.scenario != "rolling" else [])]
            command = [
                sys.executable, "-m", "locust", "-f", str(ROOT / "tests/load/locustfile.py"), "--headless", "--host", hosts[0],
                "-u", str(options.users + 1), "-r", str(options.users + 1), "-t", f"{options.seconds}s", "-s", "10",
                "--only-summary", "--skip-log-setup", "--exit-code-on-error", "0", *classes,
            ]  # fmt: skip
            print(f"{options.scenario}: {options.users} users for {options.seconds} s on {', '.join(hosts)}", file=sys.stderr)
            done = subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, cwd=ROOT, timeout=options.seconds + 120)
        if not result_path.exists():
            print(f"locust ended with {done.returncode} and no result", file=sys.stderr)
            return 2
        result = json.loads(result_path.read_text())
    say(options, result)
    judged = objectives.judge(options.wanted, result)
    for each in judged:
        print(each)
    return 0 if all(each.kept for each in judged) and result["requests"] else 1


def read() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make load", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--url", default="", help="what to load; empty: start a container's processes here")
    parser.add_argument("--image", default="", help="start this image by docker run instead")
    parser.add_argument("--model", default="", help="model folder for what is started here; empty: digits")
    parser.add_argument("--scenario", default="mixed", choices=list(SCENARIOS))
    parser.add_argument("--users", type=int, default=8, help="how many ask at once")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second in all; 0: as fast as they are answered")
    parser.add_argument("--body", default="", help="file with one request, for SCENARIO=file")
    parser.add_argument("--type", default="application/json", help="its Content-Type")
    parser.add_argument("--out", default="", help="where to write the picture, an .svg; the figures go beside it as .json")
    parser.add_argument("objectives", nargs="*", help="P50_MS=, P95_MS=, P99_MS=, FAILURES=, RPS=")
    options = parser.parse_args([a for a in sys.argv[1:] if not a.endswith("=") or a.startswith("http")])
    try:
        options.wanted = objectives.parse(options.objectives)
    except ValueError as e:
        parser.error(str(e))
    if options.users < 1 or options.seconds < 2:
        parser.error("at least 1 user and 2 seconds")
    if options.scenario == "file" and not Path(options.body).is_file():
        parser.error(f"BODY={options.body} is not a file; SCENARIO=file needs one request in a file")
    if options.scenario == "rolling" and (options.url or options.image):
        parser.error("the rolling restart starts and stops two containers' processes itself: no URL, no IMAGE")
    return options


# What is loaded -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def served(options: argparse.Namespace) -> Iterator[list[str]]:
    if options.url:
        yield [options.url.rstrip("/")]
    elif options.image:
        with container(options) as url:
            yield [url]
    elif options.scenario == "rolling":
        with rolling(options) as urls:
            yield urls
    else:
        tree = Tree(Path(options.model) if options.model else "digits")
        try:
            tree.wait_ready()
            yield [f"http://127.0.0.1:{tree.port}"]
            tree.stop()
        finally:
            tree.kill()


@contextlib.contextmanager
def container(options: argparse.Namespace) -> Iterator[str]:
    """The image as the platform runs it, as far as a load test can tell: read-only, the model mounted."""
    port, model = free_port(), Path(options.model or ARTIFACTS / "digits").resolve()
    command = [
        DOCKER, "run", "-d", "--network", "host", "--read-only", "--tmpfs", "/tmp", "-v", f"{model}:/opt/ml/model:ro",
        "-e", f"SAGEMAKER_BIND_TO_PORT={port}", "-e", "EVENKEEL_HOST=127.0.0.1",
        "-e", "EVENKEEL_SIDECAR_ADDRESS=127.0.0.1:0", options.image, "serve",
    ]  # fmt: skip
    started = subprocess.run(command, capture_output=True, text=True)
    if started.returncode != 0:
        sys.exit(f"docker run failed:\n{started.stderr.strip()}")
    name, url = started.stdout.strip().splitlines()[-1], f"http://127.0.0.1:{port}"
    try:
        try:
            eventually(lambda: healthy(url), "the container's /ping says 200", START_S)
        except AssertionError as e:
            logs = subprocess.run([DOCKER, "logs", name], capture_output=True, text=True)
            sys.exit(f"{e}\n{(logs.stdout + logs.stderr)[-4000:]}")
        yield url
    finally:
        subprocess.run([DOCKER, "stop", "-t", "30", name], capture_output=True, timeout=STOP_S + 30)
        subprocess.run([DOCKER, "rm", "-f", name], capture_output=True, timeout=STOP_S)


def healthy(url: str) -> bool:
    with urllib.request.urlopen(f"{url}/ping", timeout=2) as reply:
        return bool(reply.status == 200)


@contextlib.contextmanager
def rolling(options: argparse.Namespace) -> Iterator[list[str]]:
    """Two containers; at a third and at two thirds of the time one of them is stopped and started anew on its port."""
    ports, ended = [free_port(), free_port()], threading.Event()
    trees = [_on(port, options) for port in ports]
    trouble: list[BaseException] = []

    def restart_each() -> None:
        for n, port in enumerate(ports):
            if ended.wait(options.seconds / 3):
                return
            try:
                print(f"  container {n + 1} of {len(ports)} is restarted", file=sys.stderr)
                trees[n].stop(signal.SIGTERM)
                trees[n] = _on(port, options).wait_ready()
            except BaseException as e:
                trouble.append(e)
                return

    thread = threading.Thread(target=restart_each)
    try:
        for tree in trees:
            tree.wait_ready()
        thread.start()
        yield [f"http://127.0.0.1:{port}" for port in ports]
    finally:
        ended.set()
        if thread.ident is not None:
            thread.join()
        for tree in trees:
            tree.kill()
    if trouble:
        sys.exit(f"the restart failed: {trouble[0]}")


def _on(port: int, options: argparse.Namespace) -> Tree:
    tree = Tree(Path(options.model) if options.model else "digits", SAGEMAKER_BIND_TO_PORT=str(port), EVENKEEL_QUIET_S=QUIET_S)
    tree.port = port
    return tree


# What came of it ------------------------------------------------------------------------------------------------------


def say(options: argparse.Namespace, result: dict[str, Any]) -> None:
    print(f"{'':40} {'requests':>9} {'req/s':>8} {'p50 ms':>7} {'p95 ms':>7} {'p99 ms':>7} {'failures':>9}")
    whole = {"name": "all but /ping", **result}
    for e in [*result["entries"], whole]:
        shown = [e.get(f"p{p}_ms") or 0 for p in (50, 95, 99)]
        print(f"{e['name'][:40]:40} {e['requests']:>9} {e['rps']:>8.0f} {shown[0]:>7.0f} {shown[1]:>7.0f} {shown[2]:>7.0f} "
              f"{e['failures']:>9}")  # fmt: skip
    for error in result["errors"]:
        print(f"  {error}")
    if options.out:
        path = Path(options.out)
        note = f"{time.strftime('%Y-%m-%d')}, commit {commit()}, {os.cpu_count()} CPUs, {cpu()}, load on the same machine"
        title = (f"{options.scenario}, {options.users} users, {options.seconds} s: {result['rps']:.0f} requests/s, "
                 f"p99 {result.get('p99_ms', 0):.0f} ms, {result['failures']} failures")  # fmt: skip
        path.write_text(picture.svg(title, note, result["history"]))
        path.with_suffix(".json").write_text(json.dumps({"note": note, **result}, indent=1) + "\n")
        print(f"drawn in {path}")


def commit() -> str:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT)
    return found.stdout.strip() or "unknown"


def cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    sys.exit(main())
