"""Which operations are supported, as data. Every other one is refused with this list."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Service:
    """A service of AWS. `folder` is its name among botocore's data; `signing` is the name in the scope of a signature."""

    folder: str
    version: str
    protocol: str  # json, rest-json or query
    signing: str
    operations: tuple[str, ...]


SAGEMAKER = Service(
    "sagemaker", "2017-07-24", "json", "sagemaker",
    (
        "CreateModel", "DescribeModel", "DeleteModel", "ListModels",
        "CreateEndpointConfig", "DescribeEndpointConfig", "DeleteEndpointConfig", "ListEndpointConfigs",
        "CreateEndpoint", "DescribeEndpoint", "DeleteEndpoint", "ListEndpoints",
        "UpdateEndpoint", "UpdateEndpointWeightsAndCapacities",
        "CreateModelPackageGroup", "DescribeModelPackageGroup", "DeleteModelPackageGroup", "ListModelPackageGroups",
        "CreateModelPackage", "DescribeModelPackage", "UpdateModelPackage", "DeleteModelPackage", "ListModelPackages",
        "AddTags", "DeleteTags", "ListTags",
    ),
)  # fmt: skip
RUNTIME = Service(
    "sagemaker-runtime", "2017-05-13", "rest-json", "sagemaker", ("InvokeEndpoint", "InvokeEndpointWithResponseStream")
)
STS = Service("sts", "2011-06-15", "query", "sts", ("GetCallerIdentity",))
SERVICES = (SAGEMAKER, RUNTIME, STS)
S3_OPERATIONS = (  # by hand, not by a model: bodies are streams
    "ListBuckets", "CreateBucket", "HeadBucket", "DeleteBucket", "GetBucketLocation", "ListObjectsV2", "PutObject", "GetObject",
    "HeadObject", "CopyObject", "DeleteObject", "DeleteObjects", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload",
    "AbortMultipartUpload",
)  # fmt: skip


def listed() -> str:
    """The list for a refusal, a line of text."""
    named = [*((service.folder, service.operations) for service in SERVICES), ("s3", S3_OPERATIONS)]
    return "; ".join(f"{service}: {', '.join(operations)}" for service, operations in named)
