"""`evenkeel endpoint status`: the endpoints of a home, their configs and instances, asked over the API like by any client."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from typing import Annotated, Any

import orjson
from cyclopts import Parameter

from evenkeel.endpoint.commands import home_folder
from evenkeel.endpoint.commands.home_folder import HomeError, HomeNote

TIMEOUT_S = 10.0


def status(
    *,
    home: Annotated[str, Parameter(help="folder that `up` was given")] = "",
    environ: Annotated[Mapping[str, str], Parameter(parse=False)],
) -> int:
    """Show the endpoints on this machine.

    Example:

        evenkeel endpoint status
    """
    note = home_folder.note_of(home_folder.home_of(home, environ))
    print(f"up at http://127.0.0.1:{note.port}, invocations at http://127.0.0.1:{note.router_port}, process {note.pid}")
    for summary in _asked(note, "ListEndpoints", {"MaxResults": 100})["Endpoints"]:
        told = _asked(note, "DescribeEndpoint", {"EndpointName": summary["EndpointName"]})
        print(f"{told['EndpointName']}: {told['EndpointStatus']}, config {told['EndpointConfigName']}")
        for variant in told.get("ProductionVariants", []):
            counts = f"{variant['CurrentInstanceCount']} of {variant['DesiredInstanceCount']} instances"
            print(f"  {variant['VariantName']}: {counts}, weight {variant['CurrentWeight']:g}")
        if told.get("FailureReason"):
            print(f"  {told['FailureReason']}")
    return 0


def _asked(note: HomeNote, operation: str, params: dict[str, Any]) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", note.port, timeout=TIMEOUT_S)
    try:
        headers = {"X-Amz-Target": f"SageMaker.{operation}", "Content-Type": "application/x-amz-json-1.1"}
        connection.request("POST", "/", orjson.dumps(params), headers)
        reply = connection.getresponse()
        told: dict[str, Any] = orjson.loads(reply.read())
    except (OSError, http.client.HTTPException, orjson.JSONDecodeError) as e:
        raise HomeError(f"the endpoint does not answer at port {note.port}: {e}") from e
    finally:
        connection.close()
    if reply.status != 200:
        raise HomeError(f"{operation}: {told.get('message')}")
    return told
