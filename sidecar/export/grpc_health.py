"""gRPC health checking (grpc.health.v1) for anyone who asks that way. Off unless EVENKEEL_GRPC_HEALTH_PORT is set.

Says what the verdict says: for "" the container, for a model's name that model. Imported only when on, because it needs
the `grpc` extra. The supervisor holds the port by a socket that is bound and does not listen, so it stays ours while a
sidecar is replaced; both bind with SO_REUSEPORT.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer

from evenkeel.serve.contract import inference_protocol
from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.status_page import StatusPage

TICK_S = 0.1
WORKERS = 4
CALLS_MAX = 100  # at once, with those that watch; beyond it RESOURCE_EXHAUSTED. A call that watches holds no thread
STATUS = {True: health_pb2.HealthCheckResponse.SERVING, False: health_pb2.HealthCheckResponse.NOT_SERVING}


def serving(page: StatusPage) -> dict[str, bool]:
    """By name of service: the container under the empty name, and every model."""
    names = {m.name for m in inference_protocol.served(page)}
    return {
        "": inference_protocol.ready(page).status == 200,
        **{n: inference_protocol.model_ready(page, n).status == 200 for n in names},
    }


def start(page: StatusPage, host: str, port: int) -> None:
    """Serve for as long as the process lives. A port that cannot be had is logged; the rest of the sidecar goes on."""
    servicer = HealthServicer(experimental_non_blocking=True, experimental_thread_pool=ThreadPoolExecutor(1, "grpc-watch"))
    workers = ThreadPoolExecutor(WORKERS, "grpc")
    server = grpc.server(workers, options=[("grpc.so_reuseport", 1)], maximum_concurrent_rpcs=CALLS_MAX)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        server.add_insecure_port(address)
    except RuntimeError as e:
        log("grpc_health", f"cannot listen on {address}: {e}; gRPC health is off")
        return
    _tell(servicer, page, {})
    server.start()
    threading.Thread(target=_follow, args=(servicer, page, server), name="grpc-health", daemon=True).start()


def _follow(servicer: HealthServicer, page: StatusPage, server: grpc.Server) -> None:
    """Keeps the server alive too: it ends with its last reference."""
    statuses: dict[str, bool] = {}
    while True:
        statuses = _tell(servicer, page, statuses)
        time.sleep(TICK_S)


def _tell(servicer: HealthServicer, page: StatusPage, before: dict[str, bool]) -> dict[str, bool]:
    now = serving(page)
    for name, is_serving in now.items():
        if before.get(name) != is_serving:
            servicer.set(name, STATUS[is_serving])
    return now
