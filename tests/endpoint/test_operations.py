"""What the control plane does in this process: the registry, tags, and that every operation that is named is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from evenkeel.endpoint.control.control_app import ControlApp
from evenkeel.endpoint.control.control_settings import ControlSettings
from evenkeel.endpoint.control.endpoint_calls import EndpointCalls
from evenkeel.endpoint.control.journal_store import JournalStore
from evenkeel.endpoint.control.model_calls import ModelCalls
from evenkeel.endpoint.control.operations import operations
from evenkeel.endpoint.control.package_calls import PackageCalls
from evenkeel.endpoint.s3.object_folder import ObjectFolder
from evenkeel.endpoint.s3.s3_app import S3App
from evenkeel.endpoint.wire.http_records import HttpCall
from evenkeel.endpoint.wire.supported import SAGEMAKER, STS

ARN = "arn:aws:sagemaker:us-east-1:000000000000"
ROLE = "arn:aws:iam::000000000000:role/r"


class Plane:
    """The control plane without a port, a fleet or a clock."""

    def __init__(self, home: Path) -> None:
        settings = ControlSettings(home, 1, 2)
        self.store = JournalStore(home / "journal.jsonl")
        packages = PackageCalls(settings, self.store)
        models = ModelCalls(settings, self.store, packages)
        self.does = operations(settings, self.store, models, EndpointCalls(self.store, models), packages, lambda state: [])
        self._app = ControlApp(self.does, S3App(ObjectFolder(settings.bucket_folder)))

    def call(self, operation: str, **params: Any) -> dict[str, Any]:
        headers = {"x-amz-target": f"SageMaker.{operation}"}
        answer = self._app.answer(HttpCall("POST", "/", "", headers, orjson.dumps(params)))
        return {"status": answer.status, **orjson.loads(answer.body or b"{}")}

    def refused(self, operation: str, **params: Any) -> str:
        told = self.call(operation, **params)
        assert told["status"] == 400, told
        return str(told["message"])


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    made = Plane(tmp_path)
    yield made
    made.store.close()


def specification(image: str) -> dict[str, Any]:
    return {"Containers": [{"Image": image}], "SupportedContentTypes": ["text/csv"], "SupportedResponseMIMETypes": ["text/csv"]}


def test_every_operation_that_is_named_is_done_and_no_other(plane: Plane) -> None:
    assert set(plane.does) == {*SAGEMAKER.operations, *STS.operations}


def test_a_group_numbers_its_packages_and_never_gives_a_number_twice(plane: Plane) -> None:
    plane.call("CreateModelPackageGroup", ModelPackageGroupName="G", Tags=[{"Key": "k", "Value": "v"}])
    made = [plane.call("CreateModelPackage", ModelPackageGroupName="G")["ModelPackageArn"] for _ in range(2)]
    assert made == [f"{ARN}:model-package/g/1", f"{ARN}:model-package/g/2"]
    plane.call("DeleteModelPackage", ModelPackageName=made[1])
    assert plane.call("CreateModelPackage", ModelPackageGroupName="G")["ModelPackageArn"] == f"{ARN}:model-package/g/3"
    told = plane.call("DescribeModelPackage", ModelPackageName=made[0])
    assert (told["ModelPackageVersion"], told["ModelApprovalStatus"]) == (1, "PendingManualApproval")
    assert "already exists" in plane.refused("CreateModelPackageGroup", ModelPackageGroupName="G")
    assert plane.call("DeleteModelPackageGroup", ModelPackageGroupName="G")["__type"] == "ConflictException"
    assert plane.call("ListTags", ResourceArn=f"{ARN}:model-package-group/g")["Tags"] == [{"Key": "k", "Value": "v"}]
    for arn in (made[0], f"{ARN}:model-package/g/3"):
        plane.call("DeleteModelPackage", ModelPackageName=arn)
    assert plane.call("DeleteModelPackageGroup", ModelPackageGroupName="G")["status"] == 200
    assert "does not exist" in plane.refused("DescribeModelPackageGroup", ModelPackageGroupName="G")


def test_the_same_token_makes_one_package(plane: Plane) -> None:
    plane.call("CreateModelPackageGroup", ModelPackageGroupName="g")
    arns = {
        plane.call("CreateModelPackage", ModelPackageGroupName="g", ClientToken="t" * 36)["ModelPackageArn"] for _ in range(3)
    }
    assert len(arns) == 1


def test_packages_are_listed_by_group_and_approval(plane: Plane) -> None:
    plane.call("CreateModelPackageGroup", ModelPackageGroupName="g")
    for status in ("Approved", "Rejected", "Approved"):
        plane.call("CreateModelPackage", ModelPackageGroupName="g", ModelApprovalStatus=status)
    plane.call("CreateModelPackage", ModelPackageName="alone")

    def listed(**params: Any) -> list[Any]:
        found = plane.call("ListModelPackages", **params)["ModelPackageSummaryList"]
        return [row.get("ModelPackageVersion", row["ModelPackageName"]) for row in found]

    assert listed(ModelPackageGroupName="g", ModelApprovalStatus="Approved") == [3, 1]
    assert listed() == ["alone"] and len(listed(ModelPackageType="Both")) == 4
    assert listed(ModelPackageGroupName="g", MaxResults=2, SortOrder="Ascending") == [1, 2]


def test_only_an_approved_package_becomes_a_model(plane: Plane, tmp_path: Path) -> None:
    plane.call("CreateModelPackageGroup", ModelPackageGroupName="g")
    package = {"ModelPackageGroupName": "g", "InferenceSpecification": specification(str(tmp_path))}
    arn = plane.call("CreateModelPackage", **package)["ModelPackageArn"]
    model = {"ModelName": "m", "ExecutionRoleArn": ROLE, "PrimaryContainer": {"ModelPackageName": arn, "Environment": {"A": "1"}}}
    assert "PendingManualApproval" in plane.refused("CreateModel", **model)
    plane.call("UpdateModelPackage", ModelPackageArn=arn, ModelApprovalStatus="Approved", CustomerMetadataProperties={"by": "me"})
    assert plane.call("DescribeModelPackage", ModelPackageName=arn)["CustomerMetadataProperties"] == {"by": "me"}
    assert plane.call("CreateModel", **model)["status"] == 200
    container = plane.call("DescribeModel", ModelName="m")["PrimaryContainer"]
    assert (container["Image"], container["Environment"], container["ModelPackageName"]) == (str(tmp_path), {"A": "1"}, arn)


def test_what_is_not_supported_in_a_config_is_named(plane: Plane, tmp_path: Path) -> None:
    plane.call("CreateModel", ModelName="m", ExecutionRoleArn=ROLE, PrimaryContainer={"Image": str(tmp_path)})
    variant = {"VariantName": "v", "ModelName": "m"}
    serverless = {**variant, "ServerlessConfig": {"MemorySizeInMB": 1024, "MaxConcurrency": 1}}
    assert "serverless" in plane.refused("CreateEndpointConfig", EndpointConfigName="c", ProductionVariants=[serverless])
    capture = {"InitialSamplingPercentage": 1, "DestinationS3Uri": "s3://b/p", "CaptureOptions": [{"CaptureMode": "Input"}]}
    assert "data capture" in plane.refused(
        "CreateEndpointConfig", EndpointConfigName="c", ProductionVariants=[variant], DataCaptureConfig=capture
    )
    assert "evenkeel" in plane.refused(
        "CreateModel", ModelName="n", ExecutionRoleArn=ROLE, PrimaryContainer={"Image": "000.dkr.ecr.us-east-1.amazonaws.com/x:1"}
    )
    outside = {"Image": "evenkeel", "ModelDataUrl": "s3://b/../../journal.jsonl"}
    assert "Could not find model data" in plane.refused(
        "CreateModel", ModelName="n", ExecutionRoleArn=ROLE, PrimaryContainer=outside
    )


def test_a_config_may_be_deleted_while_it_is_in_use(plane: Plane, tmp_path: Path) -> None:
    plane.call("CreateModel", ModelName="m", ExecutionRoleArn=ROLE, PrimaryContainer={"Image": str(tmp_path)})
    plane.call("CreateEndpointConfig", EndpointConfigName="c", ProductionVariants=[{"VariantName": "v", "ModelName": "m"}])
    plane.call("CreateEndpoint", EndpointName="e", EndpointConfigName="c")
    for operation, params in (("DeleteEndpointConfig", {"EndpointConfigName": "c"}), ("DeleteModel", {"ModelName": "m"})):
        assert plane.call(operation, **params)["status"] == 200
    told = plane.call("DescribeEndpoint", EndpointName="e")
    assert (told["EndpointConfigName"], told["EndpointStatus"]) == ("c", "Creating")
    assert told["ProductionVariants"][0]["VariantStatus"][0]["StatusMessage"] == "Launching 1 instance(s)."


def test_a_variant_named_twice_is_refused(plane: Plane, tmp_path: Path) -> None:
    plane.call("CreateModel", ModelName="m", ExecutionRoleArn=ROLE, PrimaryContainer={"Image": str(tmp_path)})
    twice = [{"VariantName": "v", "ModelName": "m"}] * 2
    assert "v" in plane.refused("CreateEndpointConfig", EndpointConfigName="c", ProductionVariants=twice)
