"""The model registry: groups of model packages, numbered versions in them, and their approval."""

from __future__ import annotations

import time

from evenkeel.endpoint.control import listing
from evenkeel.endpoint.control.control_settings import ControlSettings
from evenkeel.endpoint.control.journal_store import Change, JournalStore, Row
from evenkeel.endpoint.control.tags import tag_changes
from evenkeel.endpoint.wire.api_errors import (
    NO_PACKAGE,
    NO_PACKAGE_GROUP,
    NOT_APPROVED,
    PACKAGE_EXISTS,
    PACKAGE_GROUP_EXISTS,
    PACKAGE_GROUP_FULL,
    PACKAGE_NAMELESS,
    fail,
)
from evenkeel.endpoint.wire.json_values import Values, known

GROUPS, PACKAGES = "package_groups", "packages"
CHANGEABLE = ("ModelApprovalStatus", "ApprovalDescription", "InferenceSpecification", "SourceUri")
SUMMARY = ("ModelPackageName", "ModelPackageGroupName", "ModelPackageVersion", "ModelPackageArn", "ModelPackageDescription",
           "CreationTime", "ModelPackageStatus", "ModelApprovalStatus")  # fmt: skip
STATUS_DETAILS: Values = {"ValidationStatuses": [], "ImageScanStatuses": []}


class PackageCalls:
    def __init__(self, settings: ControlSettings, store: JournalStore) -> None:
        self._settings, self._store = settings, store

    # ---- groups --------------------------------------------------------------------------------------------------------

    def create_group(self, params: Values) -> Values:
        tags = params.pop("Tags", [])
        name = params["ModelPackageGroupName"]
        arn = self._settings.arn("model-package-group", name)
        if self._store.get(GROUPS, name) is not None:
            raise fail(PACKAGE_GROUP_EXISTS, arn=arn)
        row = {
            **params,
            "ModelPackageGroupArn": arn,
            "CreationTime": time.time(),
            "ModelPackageGroupStatus": "Completed",
            "last": 0,
        }
        self._store.write(Change(GROUPS, name, row), *tag_changes(self._store, arn, tags))
        return {"ModelPackageGroupArn": arn}

    def describe_group(self, params: Values) -> Values:
        return {"CreatedBy": {}, **self._group(params["ModelPackageGroupName"])}

    def delete_group(self, params: Values) -> Values:
        group = self._group(params["ModelPackageGroupName"])
        name, arn = group["ModelPackageGroupName"], group["ModelPackageGroupArn"]
        if any(row.get("ModelPackageGroupName") == name for row in self._store.rows(PACKAGES).values()):
            raise fail(PACKAGE_GROUP_FULL, arn=arn)
        self._store.write(Change(GROUPS, name, None), Change("tags", arn, None))
        return {}

    def list_groups(self, params: Values) -> Values:
        rows, token = listing.page(self._store.rows(GROUPS).values(), params, "ModelPackageGroupName")
        return known({"ModelPackageGroupSummaryList": rows, "NextToken": token})

    # ---- packages ------------------------------------------------------------------------------------------------------

    def create(self, params: Values) -> Values:
        """The same ClientToken gives the same package again, as AWS says of it."""
        token, tags = params.pop("ClientToken", None), params.pop("Tags", [])
        again = next((arn for arn, row in self._store.rows(PACKAGES).items() if token and row.get("token") == token), None)
        if again is not None:
            return {"ModelPackageArn": again}
        group = self._group(params["ModelPackageGroupName"]) if "ModelPackageGroupName" in params else None
        name = group["ModelPackageGroupName"] if group else params.get("ModelPackageName")
        if not name:
            raise fail(PACKAGE_NAMELESS)
        version = group["last"] + 1 if group else None
        arn = self._settings.arn("model-package", name if version is None else f"{name}/{version}")
        if self._store.get(PACKAGES, arn) is not None:
            raise fail(PACKAGE_EXISTS, arn=arn)
        approval = params.get("ModelApprovalStatus", "PendingManualApproval" if group else None)
        made = {"ModelPackageName": name, "ModelPackageVersion": version, "ModelPackageArn": arn, "CreationTime": time.time()}
        status = {"ModelPackageStatus": "Completed", "ModelApprovalStatus": approval, "token": token}
        row = known({**params, **made, **status})
        grown = [Change(GROUPS, name, {**group, "last": version})] if group else []
        self._store.write(Change(PACKAGES, arn, row), *grown, *tag_changes(self._store, arn, tags))
        return {"ModelPackageArn": arn}

    def describe(self, params: Values) -> Values:
        return {"ModelPackageStatusDetails": STATUS_DETAILS, **self.package(params["ModelPackageName"])}

    def update(self, params: Values) -> Values:
        row = self.package(params["ModelPackageArn"])
        changed = {name: params[name] for name in CHANGEABLE if name in params}
        properties = {**row.get("CustomerMetadataProperties", {}), **params.get("CustomerMetadataProperties", {})}
        for name in params.get("CustomerMetadataPropertiesToRemove", []):
            properties.pop(name, None)
        new = {**row, **changed, "CustomerMetadataProperties": properties, "LastModifiedTime": time.time()}
        self._store.write(Change(PACKAGES, row["ModelPackageArn"], new))
        return {"ModelPackageArn": row["ModelPackageArn"]}

    def delete(self, params: Values) -> Values:
        arn = self.package(params["ModelPackageName"])["ModelPackageArn"]
        self._store.write(Change(PACKAGES, arn, None), Change("tags", arn, None))
        return {}

    def list_packages(self, params: Values) -> Values:
        """Without a group those that are in none, unless ModelPackageType says otherwise (D: ListModelPackages)."""
        group, kind = params.get("ModelPackageGroupName"), params.get("ModelPackageType", "Unversioned")
        if group is not None:
            group, kind = self._group(group)["ModelPackageGroupName"], "Versioned"
        wanted = [
            row for row in self._store.rows(PACKAGES).values()
            if (kind == "Both" or ("ModelPackageVersion" in row) == (kind == "Versioned"))
            and (group is None or row.get("ModelPackageGroupName") == group)
            and params.get("ModelApprovalStatus", row.get("ModelApprovalStatus")) == row.get("ModelApprovalStatus")
        ]  # fmt: skip
        rows, token = listing.page(wanted, params, "ModelPackageArn")
        found = [{name: row[name] for name in SUMMARY if name in row} for row in rows]
        return known({"ModelPackageSummaryList": found, "NextToken": token})

    def package(self, name: str) -> Row:
        """By its ARN or, where it is in no group, by its name. Raises ApiError."""
        arn = name.lower() if name.startswith("arn:") else self._settings.arn("model-package", name)
        row = self._store.get(PACKAGES, arn)
        if row is None:
            raise fail(NO_PACKAGE, arn=arn)
        return row

    def container(self, name: str) -> Values:
        """The one container of an approved package, for a model. Raises ApiError."""
        row = self.package(name)
        if row.get("ModelApprovalStatus", "Approved") != "Approved":
            raise fail(NOT_APPROVED, arn=row["ModelPackageArn"], status=row["ModelApprovalStatus"])
        [first, *_] = row.get("InferenceSpecification", {}).get("Containers") or [{}]
        return {part: first[part] for part in ("Image", "ModelDataUrl", "ModelDataSource", "Environment") if part in first}

    def _group(self, name: str) -> Row:
        row = self._store.get(GROUPS, name.rpartition("/")[2]) if name.startswith("arn:") else self._store.get(GROUPS, name)
        if row is None:
            arn = name if name.startswith("arn:") else self._settings.arn("model-package-group", name)
            raise fail(NO_PACKAGE_GROUP, arn=arn)
        return row
