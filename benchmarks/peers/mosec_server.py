"""Mosec: a Rust front and one Python worker that batches."""

from __future__ import annotations

from exchange import Exchange, settings
from mosec import Runtime, Server, Worker

SETTINGS = settings()


class TableWorker(Worker):
    resp_mime_type = "application/json"

    def __init__(self) -> None:
        super().__init__()
        self.exchange = Exchange(SETTINGS)
        self.resp_mime_type = self.exchange.mime
        self.deserialize, self.serialize = self.exchange.decode, self.exchange.encode

    def forward(self, data: list) -> list:
        return self.exchange.run(data)


if __name__ == "__main__":
    # A wait of 0 would mean Mosec's default of 10 ms, so 1 is the least there is.
    limits = {"max_batch_size": SETTINGS.rows_max, "max_wait_time": max(1, SETTINGS.wait_ms), "timeout": 60}
    server = Server()
    server.register_runtime({"/infer": [Runtime(TableWorker, num=1, **limits)]})
    server.run()
