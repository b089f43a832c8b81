"""LitServe: a uvicorn front that parses, and one process with the model that batches what is waiting.

LitServe reads the annotations of `decode_request` as objects, so they are no strings here.
"""

from typing import Annotated

import litserve
from exchange import Exchange, settings
from fastapi import Body, Response

SETTINGS = settings()


class TableApi(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.exchange = Exchange(SETTINGS)

    def batch(self, inputs: list) -> list:
        return inputs

    def predict(self, inputs: list) -> list:
        return self.exchange.run(inputs)

    def unbatch(self, output: list) -> list:
        return output

    # A response whose bytes are ready: FastAPI's encoder for a dict takes longer than everything else.
    def encode_response(self, output: object) -> Response:
        return Response(self.exchange.encode(output), media_type=self.exchange.mime)


class JsonApi(TableApi):
    def decode_request(self, request) -> object:  # no annotation: parsed JSON
        return self.exchange.parsed(request)


class BytesApi(TableApi):
    def decode_request(self, request: Annotated[bytes, Body()]) -> object:
        """FastAPI hands over the body as it is when its content type is not JSON."""
        return self.exchange.decode(request)


if __name__ == "__main__":
    # Without a wait its worker spins, which takes the front's core away.
    api_of_wire = JsonApi if SETTINGS.wire == "json" else BytesApi
    api = api_of_wire(max_batch_size=SETTINGS.rows_max, batch_timeout=SETTINGS.wait_ms / 1000, api_path="/infer")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True, timeout=60)
    server.run(host="127.0.0.1", port=SETTINGS.port, num_api_servers=1, log_level="warning", generate_client_file=False,
               access_log=False)  # fmt: skip
