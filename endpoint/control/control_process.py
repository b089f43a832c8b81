"""The control plane's process: it puts the parts together, serves until it is asked to end, and then ends what it started."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import uvicorn

from evenkeel.endpoint.control.control_app import ControlApp
from evenkeel.endpoint.control.control_settings import ControlSettings
from evenkeel.endpoint.control.endpoint_calls import EndpointCalls
from evenkeel.endpoint.control.journal_store import JournalStore
from evenkeel.endpoint.control.model_calls import ModelCalls
from evenkeel.endpoint.control.operations import operations
from evenkeel.endpoint.control.package_calls import PackageCalls
from evenkeel.endpoint.control.reconciler import Reconciler
from evenkeel.endpoint.control.router_link import RouterLink
from evenkeel.endpoint.fleet.instance_fleet import InstanceFleet
from evenkeel.endpoint.s3.object_folder import ObjectFolder
from evenkeel.endpoint.s3.s3_app import S3App

STOP_S = 30.0  # for instances, after which they are killed


async def run(
    settings: ControlSettings, listeners: tuple[socket.socket, socket.socket], path: str, ready: Callable[[], None]
) -> None:
    """`listeners`: of the API and of the router. `path`: PATH for what is started. Returns after SIGTERM or SIGINT."""
    store = JournalStore(settings.home / "journal.jsonl")
    packages = PackageCalls(settings, store)
    models = ModelCalls(settings, store, packages)
    endpoints = EndpointCalls(store, models)
    fleet = InstanceFleet(settings, store, path)
    router = RouterLink(settings, listeners[1], {"PATH": path, "LANG": "C.UTF-8"})
    reconciler = Reconciler(endpoints, fleet, router, settings.speed)
    app = ControlApp(
        operations(settings, store, models, endpoints, packages, reconciler.seen), S3App(ObjectFolder(settings.bucket_folder))
    )
    server = _Server(uvicorn.Config(app, access_log=False, log_config=None, lifespan="off", loop="none", http="httptools"))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    works: list[Coroutine[Any, Any, Any]] = [router.run(), reconciler.run(), server.serve([listeners[0]])]
    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(work) for work in works]
    ready()
    stopped = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    router.close()
    await _end_all(fleet)
    store.close()
    for task in done - {stopped}:
        task.result()  # what failed is told


class _Server(uvicorn.Server):
    """Signals are ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _end_all(fleet: InstanceFleet) -> None:
    """Their records stay: the next start launches what should be there."""
    for instance in fleet.instances.values():
        fleet.end(instance)
    end_s = asyncio.get_running_loop().time() + STOP_S
    while any(i.running and i.life != "ended" for i in fleet.instances.values()) and asyncio.get_running_loop().time() < end_s:
        fleet.look()
        await asyncio.sleep(0.05)
    fleet.kill_all()
