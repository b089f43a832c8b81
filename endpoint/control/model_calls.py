"""CreateModel, DescribeModel, DeleteModel, ListModels; the same for endpoint configs. They are kept as they were given."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evenkeel.endpoint.control import listing
from evenkeel.endpoint.control.control_settings import ControlSettings
from evenkeel.endpoint.control.journal_store import JournalStore
from evenkeel.endpoint.control.package_calls import PackageCalls
from evenkeel.endpoint.control.resource_table import ResourceTable
from evenkeel.endpoint.wire.api_errors import (
    BAD_IMAGE,
    CONFIG_EXISTS,
    MODEL_EXISTS,
    NO_CONFIG,
    NO_MODEL,
    NO_MODEL_DATA,
    PART_NOT_SUPPORTED,
    VARIANT_TWICE,
    fail,
)
from evenkeel.endpoint.wire.json_values import Values, known

OURS = "evenkeel"  # the image of a model that needs no container engine
VARIANT_PARTS = {
    "ServerlessConfig": "serverless variants", "AcceleratorType": "elastic inference", 
    "ManagedInstanceScaling": "managed scaling", "CoreDumpConfig": "core dumps", "InstancePools": "instance pools",
}  # fmt: skip
CONFIG_PARTS = {
    "AsyncInferenceConfig": "asynchronous inference", "ShadowProductionVariants": "shadow variants",
    "DataCaptureConfig": "data capture", "ExplainerConfig": "explainers",
}  # fmt: skip


class ModelCalls:
    def __init__(self, settings: ControlSettings, store: JournalStore, packages: PackageCalls) -> None:
        self._settings, self._store, self._packages = settings, store, packages
        self.models = ResourceTable("models", "model", MODEL_EXISTS, NO_MODEL, settings, store)
        self.configs = ResourceTable("configs", "endpoint-config", CONFIG_EXISTS, NO_CONFIG, settings, store)

    def create_model(self, params: Values) -> Values:
        tags = params.pop("Tags", [])
        containers = [params["PrimaryContainer"]] if "PrimaryContainer" in params else params.get("Containers", [])
        if len(containers) != 1:
            raise fail(PART_NOT_SUPPORTED, what=f"a model of {len(containers)} containers", hint=" Name one PrimaryContainer.")
        params["PrimaryContainer"] = self._resolved(containers[0])
        params.pop("Containers", None)
        return {"ModelArn": self.models.create(params["ModelName"], {**params, "CreationTime": time.time()}, tags)}

    def describe_model(self, params: Values) -> Values:
        row = self.models.get(params["ModelName"])
        return {"EnableNetworkIsolation": False, **row, "ModelArn": self.models.arn(row["ModelName"])}

    def delete_model(self, params: Values) -> Values:
        self.models.delete(params["ModelName"])
        return {}

    def list_models(self, params: Values) -> Values:
        rows, token = listing.page(self._store.rows("models").values(), params, "ModelName")
        found = [
            {k: row[k] for k in ("ModelName", "CreationTime")} | {"ModelArn": self.models.arn(row["ModelName"])} for row in rows
        ]
        return known({"Models": found, "NextToken": token})

    def create_config(self, params: Values) -> Values:
        tags = params.pop("Tags", [])
        _refuse_parts(params, CONFIG_PARTS)
        names = [variant["VariantName"] for variant in params["ProductionVariants"]]
        if twice := next((name for name in names if names.count(name) > 1), ""):
            raise fail(VARIANT_TWICE, name=twice)
        for variant in params["ProductionVariants"]:
            _refuse_parts(variant, VARIANT_PARTS)
            if "ModelName" not in variant:
                raise fail(PART_NOT_SUPPORTED, what="a variant without a ModelName (inference components)", hint="")
            self.models.get(variant["ModelName"])
            variant.setdefault("InitialVariantWeight", 1.0)
            variant.setdefault("InitialInstanceCount", 1)
        return {
            "EndpointConfigArn": self.configs.create(params["EndpointConfigName"], {**params, "CreationTime": time.time()}, tags)
        }

    def describe_config(self, params: Values) -> Values:
        row = self.configs.get(params["EndpointConfigName"])
        return {**row, "EndpointConfigArn": self.configs.arn(row["EndpointConfigName"])}

    def delete_config(self, params: Values) -> Values:
        """Also of a config that is in use, as AWS allows (D: UpdateEndpoint): what runs on it runs on."""
        self.configs.delete(params["EndpointConfigName"])
        return {}

    def list_configs(self, params: Values) -> Values:
        rows, token = listing.page(self._store.rows("configs").values(), params, "EndpointConfigName")
        found = [
            {"EndpointConfigName": r["EndpointConfigName"], "EndpointConfigArn": self.configs.arn(r["EndpointConfigName"]),
             "CreationTime": r["CreationTime"]} for r in rows
        ]  # fmt: skip
        return known({"EndpointConfigs": found, "NextToken": token})

    def _resolved(self, container: Values) -> Values:
        """The container with its package's image and data in it. Raises ApiError where it cannot be run here."""
        if "ModelPackageName" in container:
            package = self._packages.container(container["ModelPackageName"])
            environment = {**package.get("Environment", {}), **container.get("Environment", {})}
            container = {**package, **container, "Environment": environment}
        image = container.get("Image", "")
        if container.get("Mode", "SingleModel") != "SingleModel":
            raise fail(PART_NOT_SUPPORTED, what="multi-model endpoints", hint="")
        if Path(image).is_absolute():
            return container
        if image != OURS:
            raise fail(BAD_IMAGE, image=image or "that is not named")
        url = data_url(container)
        if not url:
            raise fail(BAD_IMAGE, image=f"{OURS} without ModelDataUrl or ModelDataSource")
        if not _data_path(self._settings, url).exists():
            raise fail(NO_MODEL_DATA, url=url)
        return container


def data_url(container: Mapping[str, Any]) -> str:
    source = container.get("ModelDataSource", {}).get("S3DataSource", {})
    return str(container.get("ModelDataUrl") or source.get("S3Uri", ""))


def _data_path(settings: ControlSettings, url: str) -> Path:
    """Raises ApiError for what is not in our buckets, or would lead out of them."""
    scheme, _, rest = url.partition("://")
    if scheme != "s3" or ".." in rest.split("/"):
        raise fail(NO_MODEL_DATA, url=url)
    return settings.bucket_folder / rest.rstrip("/")


def _refuse_parts(given: Values, parts: Mapping[str, str]) -> None:
    for name, what in parts.items():
        if given.get(name):
            raise fail(PART_NOT_SUPPORTED, what=what, hint=f" Leave {name} out.")
