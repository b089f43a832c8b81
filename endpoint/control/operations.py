"""Which function does which operation. A test compares it with the list of what is supported."""

from __future__ import annotations

from collections.abc import Callable

from evenkeel.endpoint.control import listing
from evenkeel.endpoint.control.control_settings import ACCOUNT, ControlSettings
from evenkeel.endpoint.control.endpoint_calls import EndpointCalls
from evenkeel.endpoint.control.endpoint_machine import SeenInstance
from evenkeel.endpoint.control.endpoint_state import EndpointState
from evenkeel.endpoint.control.endpoint_views import described, summary
from evenkeel.endpoint.control.journal_store import JournalStore
from evenkeel.endpoint.control.model_calls import ModelCalls
from evenkeel.endpoint.control.package_calls import PackageCalls
from evenkeel.endpoint.control.tag_calls import TagCalls
from evenkeel.endpoint.wire.json_values import Values, known

Does = Callable[[Values], Values]


def operations(
    settings: ControlSettings, store: JournalStore, models: ModelCalls, endpoints: EndpointCalls,
    packages: PackageCalls,
    seen: Callable[[EndpointState], list[SeenInstance]],
) -> dict[str, Does]:  # fmt: skip
    def describe(params: Values) -> Values:
        state = endpoints.get(params["EndpointName"])
        return described(state, seen(state))

    def list_endpoints(params: Values) -> Values:
        rows, token = listing.page([summary(state) for state in endpoints.every()], params, "EndpointName", "EndpointStatus")
        return known({"Endpoints": rows, "NextToken": token})

    tags = TagCalls(settings, store)
    return {
        "CreateModel": models.create_model, "DescribeModel": models.describe_model, "DeleteModel": models.delete_model,
        "ListModels": models.list_models, "CreateEndpointConfig": models.create_config,
        "DescribeEndpointConfig": models.describe_config, "DeleteEndpointConfig": models.delete_config,
        "ListEndpointConfigs": models.list_configs, "CreateEndpoint": endpoints.create, "UpdateEndpoint": endpoints.update,
        "UpdateEndpointWeightsAndCapacities": endpoints.update_weights, "DeleteEndpoint": endpoints.delete,
        "DescribeEndpoint": describe, "ListEndpoints": list_endpoints, 
        "CreateModelPackageGroup": packages.create_group, "DescribeModelPackageGroup": packages.describe_group,
        "DeleteModelPackageGroup": packages.delete_group, "ListModelPackageGroups": packages.list_groups,
        "CreateModelPackage": packages.create, "DescribeModelPackage": packages.describe, "UpdateModelPackage": packages.update,
        "DeleteModelPackage": packages.delete, "ListModelPackages": packages.list_packages,
        "AddTags": tags.add, "DeleteTags": tags.delete,
        "ListTags": tags.listed, "GetCallerIdentity": _who,
    }  # fmt: skip


def _who(params: Values) -> Values:
    return {"UserId": "evenkeel", "Account": ACCOUNT, "Arn": f"arn:aws:iam::{ACCOUNT}:user/evenkeel"}
