"""Ray Serve behind its HAProxy ingress: one replica that batches.

Its HAProxy listens on 0.0.0.0 for its statistics (port 8404) and its metrics (9101) whatever it is told, so it is measured only
when it is asked for by name.
"""

from __future__ import annotations

import time

import ray
from exchange import Exchange, settings
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

SETTINGS = settings()


@serve.deployment(num_replicas=1, max_ongoing_requests=1024, ray_actor_options={"num_cpus": 0.5})
class Table:
    def __init__(self) -> None:
        self.exchange = Exchange(SETTINGS)

    @serve.batch(max_batch_size=SETTINGS.rows_max, batch_wait_timeout_s=0.0)
    async def infer(self, items: list) -> list:
        return self.exchange.run(items)

    async def __call__(self, request: Request) -> Response:
        answer = await self.infer(self.exchange.decode(await request.body()))
        return Response(self.exchange.encode(answer), media_type=self.exchange.mime)


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200 * 2**20, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": SETTINGS.port})
    serve.run(Table.bind(), route_prefix="/")
    while True:
        time.sleep(3600)
