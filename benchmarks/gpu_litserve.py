"""LitServe with a model of benchmarks/gpu.py: processes for HTTP, and workers that each hold the model (see gpu_peers.py)."""

from collections.abc import Sequence
from typing import Annotated, Any

import litserve
from fastapi import Body, Response

from benchmarks.gpu_peers import Array, Model, Order, batched, decoded, encoded, ordered


class Api(litserve.LitAPI):  # type: ignore[misc]
    order: Order

    def setup(self, device: str) -> None:
        self._model = Model(self.order.work, self.order.tiny, self.order.setting.rows_max)

    # LitServe reads this annotation: a body of bytes, which FastAPI hands over as it came.
    def decode_request(self, request: Annotated[bytes, Body()], **_: Any) -> Array:
        return decoded(request)

    def batch(self, inputs: Sequence[Array]) -> Array:
        return batched(inputs)

    def predict(self, x: Array, **_: Any) -> Array:
        return self._model.run(x)

    def unbatch(self, output: Array) -> list[Array]:
        return list(output)

    def encode_response(self, output: Array, **_: Any) -> Response:
        return Response(encoded(output), media_type="application/x-npy")


def main() -> None:
    order = ordered()
    api = Api(max_batch_size=order.setting.rows_max, batch_timeout=order.setting.wait_ms / 1000, api_path="/invocations")
    api.order = order
    # "cpu" keeps LitServe from choosing a device: the model moves itself. The queue is its fast one, by ZeroMQ.
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=order.setting.workers, fast_queue=True, timeout=60)
    server.run(host="127.0.0.1", port=order.port, num_api_servers=order.setting.fronts, log_level="warning",
               generate_client_file=False, access_log=False)  # fmt: skip


if __name__ == "__main__":
    main()
