"""Plain boto3, as it would run against AWS: an endpoint of two instances, an update that fails, and one that succeeds.

evenkeel endpoint up --detach && eval "$(evenkeel endpoint env)"
python examples/endpoint.py model_artifacts/digits
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import boto3

ROLE = "arn:aws:iam::000000000000:role/sagemaker"
NAME = "example"
sagemaker, runtime = boto3.client("sagemaker"), boto3.client("sagemaker-runtime")


def make_config(name: str, image: str) -> None:
    sagemaker.create_model(ModelName=name, PrimaryContainer={"Image": image}, ExecutionRoleArn=ROLE)
    variant = {"VariantName": "main", "ModelName": name, "InitialInstanceCount": 2, "InstanceType": "ml.m5.large"}
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])


def update_to(config: str) -> str:
    """By a canary of one instance. Returns the config that serves afterwards, which the waiter says nothing of."""
    routing = {"Type": "CANARY", "CanarySize": {"Type": "INSTANCE_COUNT", "Value": 1}, "WaitIntervalInSeconds": 1}
    policy = {"TrafficRoutingConfiguration": routing, "TerminationWaitInSeconds": 0}
    sagemaker.update_endpoint(EndpointName=NAME, EndpointConfigName=config, DeploymentConfig={"BlueGreenUpdatePolicy": policy})
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=NAME, WaiterConfig={"Delay": 1, "MaxAttempts": 600})
    told = sagemaker.describe_endpoint(EndpointName=NAME)
    print(f"{config}: {told['EndpointStatus']} with {told['EndpointConfigName']}. {told.get('FailureReason', '')}")
    return str(told["EndpointConfigName"])


def main(folder: Path) -> None:
    for name, image in (("v1", folder), ("v2-broken", folder / "not-there"), ("v3", folder)):
        make_config(name, str(image.absolute()))
    sagemaker.create_endpoint(EndpointName=NAME, EndpointConfigName="v1")
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=NAME, WaiterConfig={"Delay": 1, "MaxAttempts": 600})
    sample = min((folder / "samples").glob("*.json"), key=lambda path: ("expected" in path.name, path.name)).read_bytes()
    answer = runtime.invoke_endpoint(EndpointName=NAME, ContentType="application/json", Body=sample)
    print(f"{answer['InvokedProductionVariant']} says {json.loads(answer['Body'].read())}"[:100])
    assert update_to("v2-broken") == "v1", "a version that never starts is rolled back"
    assert update_to("v3") == "v3"
    sagemaker.delete_endpoint(EndpointName=NAME)
    sagemaker.get_waiter("endpoint_deleted").wait(EndpointName=NAME, WaiterConfig={"Delay": 1, "MaxAttempts": 600})
    print("deleted")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
