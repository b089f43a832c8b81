"""The whole: unmodified boto3 against `evenkeel endpoint`, with real process trees behind it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import tarfile
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError

from tests.endpoint.home import DIGITS, ECHO, ROLE, Home
from tests.support.tree import ROOT, eventually

pytestmark = pytest.mark.slow


@pytest.fixture
def home() -> Iterator[Home]:
    made = Home()
    yield made
    made.remove()


class Load:
    """Unique numbers to a model that gives them back, from several connections, until it is stopped. Every answer is compared."""

    def __init__(self, url: str, endpoint: str, clients: int = 4) -> None:
        self.right, self.wrong = 0, []
        self._host, self._path = urlsplit(url).netloc, f"/endpoints/{endpoint}/invocations"
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self, client: int) -> None:
        connection = http.client.HTTPConnection(self._host, timeout=60)
        number = client * 100_000
        while not self._stop.is_set():
            number += 1
            connection.request("POST", self._path, json.dumps({"instances": [[number]]}), {"Content-Type": "application/json"})
            reply = connection.getresponse()
            body = reply.read()
            with self._lock:
                if reply.status == 200 and json.loads(body)["predictions"] == [[float(number)]]:
                    self.right += 1
                else:
                    self.wrong.append(f"{reply.status} {body[:300]!r}")

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)


def test_the_example_runs_unmodified_and_nothing_is_left_after_down(home: Home) -> None:
    home.up("--speed", "10")
    said = home.script(ROOT / "examples" / "endpoint.py", str(DIGITS))
    assert (
        "v2-broken: InService with v1. The primary container for production variant main did not pass the ping health check"
        in said
    )
    assert "v3: InService with v3." in said and said.endswith("deleted\n")
    assert home.instance_pids() == {}
    home.command("down")
    eventually(lambda: not home.processes(), f"no process is left: {home.processes()}")
    assert list(home.folder.iterdir()) == []


def test_a_model_is_uploaded_and_served_from_its_archive(home: Home) -> None:
    home.up()
    s3, sagemaker = home.client("s3"), home.client("sagemaker")
    packed = home.folder / "model.tar.gz"
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(DIGITS, arcname=".")
    container = {"Image": "evenkeel", "ModelDataUrl": "s3://models/digits/model.tar.gz", "Environment": {"EVENKEEL_THREADS": "1"}}
    asked = {"ModelName": "digits", "PrimaryContainer": container, "ExecutionRoleArn": ROLE}
    with pytest.raises(ClientError, match=r"Could not find model data at s3://models/digits/model.tar.gz\."):
        sagemaker.create_model(**asked)
    s3.create_bucket(Bucket="models")
    s3.upload_file(str(packed), "models", "digits/model.tar.gz")
    sagemaker.create_model(**asked)
    variant = {"VariantName": "main", "ModelName": "digits", "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
    sagemaker.create_endpoint_config(EndpointConfigName="digits", ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName="e", EndpointConfigName="digits")
    home.wait("e")
    body = (DIGITS / "samples" / "seven.json").read_bytes()
    answer = home.client("sagemaker-runtime").invoke_endpoint(EndpointName="e", Body=body, ContentType="application/json")
    [scores] = json.loads(answer["Body"].read())["predictions"]
    assert scores.index(max(scores)) == 7


def test_updates_of_every_kind_under_load_lose_nothing(home: Home) -> None:
    home.up("--speed", "20")
    home.config("one", ECHO)
    home.config("two", ECHO)
    sagemaker = home.client("sagemaker")
    sagemaker.create_endpoint(EndpointName="e", EndpointConfigName="one")
    home.wait("e")
    load = Load(home.exports()["AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME"], "e")
    canary = {"Type": "CANARY", "CanarySize": {"Type": "INSTANCE_COUNT", "Value": 1}, "WaitIntervalInSeconds": 10}
    rolling = {"MaximumBatchSize": {"Type": "CAPACITY_PERCENT", "Value": 50}, "WaitIntervalInSeconds": 10}
    policies = (
        {}, {"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": canary, "TerminationWaitInSeconds": 10}},
        {"RollingUpdatePolicy": rolling},
    )  # fmt: skip
    configs = ("two", "one", "two")
    for config, policy in zip(configs, policies, strict=True):
        sagemaker.update_endpoint(EndpointName="e", EndpointConfigName=config, **({"DeploymentConfig": policy} if policy else {}))
        assert home.wait("e")["EndpointConfigName"] == config
    load.stop()
    assert load.wrong == [] and load.right > 500


def test_an_instance_that_is_killed_is_replaced_and_who_is_left_serves(home: Home) -> None:
    home.up()
    home.config("one", ECHO)
    home.client("sagemaker").create_endpoint(EndpointName="e", EndpointConfigName="one")
    home.wait("e")
    load = Load(home.exports()["AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME"], "e")
    before = home.instance_pids()
    eventually(lambda: load.right > 50, "the load runs")
    os.killpg(next(iter(before.values())), signal.SIGKILL)
    eventually(lambda: len(home.instance_pids().keys() - before.keys()) == 1, "another is launched")

    def full_strength() -> bool:
        told = home.client("sagemaker").describe_endpoint(EndpointName="e")
        return bool(told["ProductionVariants"][0]["CurrentInstanceCount"] == 2)

    eventually(full_strength, "both serve", 90)
    right = load.right
    eventually(lambda: load.right > right + 50, "the load runs on")
    load.stop()
    assert len(load.wrong) <= 8 and all(
        wrong.startswith("424") for wrong in load.wrong
    )  # what was in flight in the one that died


def test_a_control_plane_that_is_killed_is_taken_over_with_its_instances(home: Home) -> None:
    home.up()
    home.config("one", ECHO)
    home.config("two", DIGITS)
    home.client("sagemaker").create_endpoint(EndpointName="e", EndpointConfigName="one")
    home.wait("e")
    before = home.instance_pids()
    home.client("sagemaker").update_endpoint(EndpointName="e", EndpointConfigName="two")
    pid = json.loads((home.folder / "home" / "endpoint" / "up.json").read_bytes())["pid"]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not os.path.exists(f"/proc/{pid}/fd/0"), "it is gone")
    assert all(os.path.exists(f"/proc/{p}") for p in before.values())
    home.up()
    assert home.wait("e")["EndpointConfigName"] == "two"
    body = (DIGITS / "samples" / "seven.json").read_bytes()
    answer = home.client("sagemaker-runtime").invoke_endpoint(EndpointName="e", Body=body, ContentType="application/json")
    assert "predictions" in json.loads(answer["Body"].read())
    eventually(lambda: not any(os.path.exists(f"/proc/{p}") for p in before.values()), "the old fleet has ended", 60)
    assert len([line for line in home.processes() if "evenkeel.container serve" in line]) == 2
    pid = json.loads((home.folder / "home" / "endpoint" / "up.json").read_bytes())["pid"]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not os.path.exists(f"/proc/{pid}/fd/0"), "it is gone")
    home.command("down")  # also what a killed one has left
    eventually(lambda: not home.processes(), f"no process is left: {home.processes()}")


def test_wrong_calls_get_awss_errors(home: Home) -> None:
    home.up()
    home.config("one", "/not/there", 1)
    sagemaker = home.client("sagemaker")
    arn = "arn:aws:sagemaker:us-east-1:000000000000:"

    def refused(call: str, **params: object) -> str:
        with pytest.raises(ClientError) as caught:
            getattr(sagemaker, call)(**params)
        return str(caught.value.response["Error"]["Message"])

    assert refused("create_endpoint", EndpointName="e", EndpointConfigName="no") == (
        f'Could not find endpoint configuration "{arn}endpoint-config/no".'
    )
    assert refused("describe_endpoint", EndpointName="e") == f'Could not find endpoint "{arn}endpoint/e".'
    assert refused(
        "create_endpoint_config", EndpointConfigName="one", ProductionVariants=[{"VariantName": "v", "ModelName": "one"}]
    ) == (f'Cannot create already existing endpoint configuration "{arn}endpoint-config/one".')
    sagemaker.create_endpoint(EndpointName="e", EndpointConfigName="one", Tags=[{"Key": "a", "Value": "b"}])
    in_progress = f'Cannot update in-progress endpoint "{arn}endpoint/e".'
    assert refused("update_endpoint", EndpointName="e", EndpointConfigName="one") == in_progress
    assert refused("delete_endpoint", EndpointName="e") == in_progress
    eventually(lambda: sagemaker.describe_endpoint(EndpointName="e")["EndpointStatus"] == "Failed", "it fails", 60)
    assert "/not/there does not exist" in sagemaker.describe_endpoint(EndpointName="e")["FailureReason"]
    assert "can only be deleted" in refused("update_endpoint", EndpointName="e", EndpointConfigName="one")
    assert sagemaker.list_tags(ResourceArn=f"{arn}endpoint/e")["Tags"] == [{"Key": "a", "Value": "b"}]
    assert "not supported" in refused("list_training_jobs") and "CreateEndpoint" in refused("list_training_jobs")
    sagemaker.delete_endpoint(EndpointName="e")
    home.wait("e", "endpoint_deleted")
    assert "already" in home.command("up", "--detach", "--port", "0", code=1)
    home.command("down")
    assert "nothing is up" in home.command("status", code=1)
