"""All instances of a home: launched, pinged, taken out, replaced and ended. Owner of their records and of their processes.

A passing ping takes an instance in; one miss takes it out, and three end it (ours: AWS does not publish its numbers). It is
pinged every 5 s (O), and while it starts more often, so that a start at home is seen at once.
"""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import socket
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evenkeel.endpoint.control.control_settings import ControlSettings
from evenkeel.endpoint.control.endpoint_machine import Life, SeenInstance
from evenkeel.endpoint.control.fleet_plan import VariantPlan
from evenkeel.endpoint.control.journal_store import Change, JournalStore
from evenkeel.endpoint.fleet import instance_process, model_files
from evenkeel.endpoint.fleet.instance_process import PORT, SIDE_PORT, InstancePlace, RunningProcess
from evenkeel.endpoint.fleet.ping import ping

PING_EVERY_S, START_PING_EVERY_S = 5.0, 0.25
MISSES_MAX = 3
STOP_S = 30.0  # D: SIGKILL comes 30 s after SIGTERM
ENDED_KEPT = 8  # of the ended instances of an endpoint, for why they ended
NET_FIRST, NETS = 64, 60  # second byte of addresses: 127.64.x.y and up, by the home


@dataclass(slots=True)
class Instance:
    """`place` and `running` are None for one that could not be started."""

    name: str
    endpoint: str
    fleet: int
    variant: str
    zone: str
    launched_s: float
    place: InstancePlace | None = None
    running: RunningProcess | None = None
    life: Life = Life.STARTING
    was_ready: bool = False
    misses: int = 0
    why: str = ""
    pinged_s: float = 0.0
    kill_s: float = 0.0

    def seen(self) -> SeenInstance:
        return SeenInstance(self.name, self.fleet, self.variant, self.life, self.launched_s, self.was_ready, self.why)


class InstanceFleet:
    def __init__(self, settings: ControlSettings, store: JournalStore, path: str) -> None:
        """`path` is the PATH of what is started. Takes over what runs from before."""
        self._settings, self._store, self._path = settings, store, path
        self._pings: set[asyncio.Task[None]] = set()
        self.instances: dict[str, Instance] = {}
        for row in store.rows("instances").values():
            self._take_over(row)

    def of(self, endpoint: str) -> list[Instance]:
        return [i for i in self.instances.values() if i.endpoint == endpoint]

    # ---- changes -------------------------------------------------------------------------------------------------------

    def launch(self, endpoint: str, fleet: int, plan: VariantPlan) -> None:
        """Its zone is the one with the fewest of its kind. What cannot be started has ended, with the reason."""
        number = (self._store.get("counters", "instances") or {"last": 0})["last"] + 1
        peers = Counter(
            i.zone for i in self.of(endpoint) if i.life is not Life.ENDED and (i.fleet, i.variant) == (fleet, plan.name)
        )
        zone = min(self._settings.zones, key=lambda z: (peers[z], z))
        made = Instance(f"i-{number:06d}", endpoint, fleet, plan.name, zone, time.time())
        self.instances[made.name] = made
        try:
            folder = self._settings.home / "instances" / made.name
            folder.mkdir(parents=True, exist_ok=True)
            unpacked = self._settings.home / "models" / f"{endpoint}-{fleet}-{plan.name}"
            unpacked.parent.mkdir(exist_ok=True)
            model = model_files.made_ready(plan.image, plan.model_data, self._settings.bucket_folder, unpacked)
            made.place = _free_place(folder, _address(self._settings.home, number))
            made.running = instance_process.start(made.place, model, plan.environment, self._path)
        except (OSError, model_files.NoModelFiles) as e:
            made.life, made.why = Life.ENDED, str(e)
        self._store.write(Change("counters", "instances", {"last": number}), Change("instances", made.name, _row(made)))

    def end(self, instance: Instance) -> None:
        """It gets SIGTERM now, and SIGKILL after 30 s."""
        if instance.running and not instance.kill_s:
            instance.life, instance.kill_s = Life.LEAVING, time.time() + STOP_S
            instance_process.ask_to_end(instance.running)

    def kill_all(self) -> None:
        for instance in self.instances.values():
            if instance.running:
                instance_process.kill(instance.running)

    def tidy(self, endpoint: str, keep: int = ENDED_KEPT) -> None:
        """Forget the oldest ended instances, with their files."""
        ended = [i for i in self.of(endpoint) if i.life is Life.ENDED]
        for instance in ended[: max(0, len(ended) - keep)]:
            del self.instances[instance.name]
            self._store.write(Change("instances", instance.name, None))
            if instance.place:
                shutil.rmtree(instance.place.folder, ignore_errors=True)

    # ---- looking -------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Who has ended, who is to be killed, who is to be pinged. Waits for nothing."""
        now_s = time.time()
        for instance in self.instances.values():
            if instance.running is None or instance.place is None or instance.life is Life.ENDED:
                continue
            instance_process.bound_output(instance.place)
            if not instance_process.lives(instance.running):
                self._has_ended(instance, now_s)
            elif instance.kill_s and now_s > instance.kill_s:
                instance_process.kill(instance.running)
            elif instance.life is not Life.LEAVING and now_s >= instance.pinged_s + self._every_s(instance):
                instance.pinged_s = now_s
                task = asyncio.get_running_loop().create_task(self._ping(instance, instance.place, instance.running))
                self._pings.add(task)
                task.add_done_callback(self._pings.discard)

    @staticmethod
    def _every_s(instance: Instance) -> float:
        return PING_EVERY_S if instance.life is Life.READY else START_PING_EVERY_S

    async def _ping(self, instance: Instance, place: InstancePlace, running: RunningProcess) -> None:
        wrong = await ping(place.address, place.port)
        if instance.life in (Life.LEAVING, Life.ENDED):
            return
        if not wrong and not instance_process.listens(running, place):
            wrong = f"what answers at {place.address}:{place.port} is not this instance"
        if not wrong:
            instance.life, instance.was_ready, instance.misses, instance.why = Life.READY, True, 0, ""
            return
        instance.why = wrong
        if instance.life is Life.STARTING:
            return
        instance.life, instance.misses = Life.OUT, instance.misses + 1
        instance.pinged_s += PING_EVERY_S - START_PING_EVERY_S  # the next as if it were in service
        if instance.misses >= MISSES_MAX:
            self.end(instance)

    def _has_ended(self, instance: Instance, now_s: float) -> None:
        assert instance.running and instance.place, "only what was started ends"
        how = instance_process.exit_words(instance.running)
        last = instance_process.last_line(instance.place)
        was_asked = instance.life is Life.LEAVING
        instance.life = Life.ENDED
        if not was_asked:
            instance.why = f"container {how} after {now_s - instance.launched_s:.0f} s{': ' + last if last else ''}"

    def _take_over(self, row: dict[str, Any]) -> None:
        place = InstancePlace(**{**row["place"], "folder": Path(row["place"]["folder"])}) if row["place"] else None
        running = RunningProcess(**row["running"]) if row["running"] else None
        instance = Instance(**{**row, "place": place, "running": running, "life": Life(row["life"])})
        if running is None or not instance_process.lives(running):
            instance.life, instance.was_ready = Life.ENDED, True  # whoever ended it meanwhile: no reason to give up now
            instance.why = instance.why or "it ended while nobody watched"
        else:
            instance.life, instance.launched_s = Life.STARTING, time.time()  # it has its time to answer again
        self.instances[instance.name] = instance


def _row(instance: Instance) -> dict[str, Any]:
    row = dataclasses.asdict(instance)
    if row["place"]:
        row["place"]["folder"] = str(row["place"]["folder"])
    return row


def _address(home: Path, number: int) -> str:
    """One that no other instance of this home gets, and hardly one of another home."""
    net = NET_FIRST + sum(str(home).encode()) % NETS
    return f"127.{net}.{number // 250 % 250}.{number % 250 + 2}"


def _free_place(folder: Path, address: str) -> InstancePlace:
    return InstancePlace(folder, address, _free(address, PORT), _free(address, SIDE_PORT))


def _free(address: str, port: int) -> int:
    """That port, or where something holds it at all addresses, any other."""
    for candidate in (port, 0):
        with socket.socket() as probe:
            try:
                probe.bind((address, candidate))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError(f"no port is free at {address}")
