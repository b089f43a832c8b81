"""What the sidecar shows over HTTP. Read only: nothing here changes anything."""

from __future__ import annotations

import time
from typing import Any

from fastapi import FastAPI, Response

from serve import exposition
from serve.contract.status import StatusPage
from sidecar import observe


def build(page: StatusPage) -> FastAPI:
    app = FastAPI(title="evenkeel sidecar", docs_url=None, redoc_url=None)

    @app.get("/status")
    def status() -> dict[str, Any]:
        return observe.status(page, time.monotonic())

    collector = exposition.PageCollector(page)

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(collector.text(), headers={"content-type": exposition.CONTENT_TYPE})

    @app.get("/livez")
    def livez() -> Response:
        return Response(status_code=200)

    @app.get("/readyz")
    def readyz(response: Response) -> dict[str, Any]:
        verdict = page.verdict()
        response.status_code = 200 if verdict.ready else 503
        return {"ready": verdict.ready, "reason": verdict.reason.code}

    return app
