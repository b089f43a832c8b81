"""What the application answers beside the hot path costs little, however often it is asked."""

from __future__ import annotations

import asyncio
import os

from evenkeel.serve.contract.status_page import StatusPage
from evenkeel.serve.front.pages.data_pages import METRICS_TYPE, Metrics, build


def test_those_who_scrape_at_once_share_one_text() -> None:
    made = []

    class Counted(Metrics):
        def _make(self, page: StatusPage) -> bytes:
            made.append(page)
            return super()._make(page)

    async def story(page: StatusPage) -> list[bytes]:
        metrics = Counted()
        asked = [asyncio.create_task(metrics.text(page)) for _ in range(64)]
        await asyncio.sleep(0)
        asked[0].cancel()  # who leaves does not take it from the others
        return await asyncio.gather(*asked[1:])

    page = StatusPage.create()
    try:
        texts = asyncio.run(story(page))
    finally:
        os.close(page.fd)
    assert len(made) == 1 and len(set(texts)) == 1 and texts[0].startswith(b"# HELP")


def test_the_type_of_the_metrics_is_the_one_that_they_have() -> None:
    from evenkeel.serve.exposition import CONTENT_TYPE

    assert METRICS_TYPE == CONTENT_TYPE


def test_the_schema_is_made_once_and_before_anybody_asks() -> None:
    app = build()
    assert app.openapi_schema is not None and app.openapi() is app.openapi_schema
