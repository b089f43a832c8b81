"""What is answered when a call cannot be done: AWS's codes and words, each with where they are known from.

`confidence` is D (documented by AWS), C (read in public code), O (observed by others in public) or "ours" (no public source says
it, so these are our own words). Templates are filled by `fail`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

OPERATOR = "aws/amazon-sagemaker-operator-for-k8s, constants of clientwrapper"
API = "botocore's model of the service"


@dataclass(frozen=True, slots=True)
class KnownError:
    code: str
    status: int
    template: str
    source: str
    confidence: str


class ApiError(Exception):
    """An answer that is an error. `members` are what its shape has beside the message."""

    def __init__(self, code: str, status: int, message: str, members: Mapping[str, object] | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.status, self.message = code, status, message
        self.members = dict(members or {})


def fail(known: KnownError, /, **values: object) -> ApiError:
    """To be raised."""
    return ApiError(known.code, known.status, known.template.format(**values))


# ---- any call ----------------------------------------------------------------------------------------------------------

NOT_SUPPORTED = KnownError(
    "NotSupportedByEvenkeel", 501,
    "{what} is not supported by evenkeel's endpoint on this machine, and nothing was sent to AWS. Supported: {supported}",
    "none", "ours",
)  # fmt: skip
MALFORMED = KnownError("SerializationException", 400, "{what}", "botocore's retry rules and public traces name the code", "O")
PART_NOT_SUPPORTED = KnownError(
    "ValidationException", 400, "evenkeel's endpoint on this machine does not support {what} yet.{hint}", "none", "ours"
)
INTERNAL = KnownError(
    "InternalFailure", 500, "a fault of evenkeel's endpoint itself: {what}. Its log has the traceback.", "none", "ours"
)
NOT_LOOPBACK = KnownError(
    "AccessDeniedException", 403,
    "the Host header names {host}, and this API answers only to names of this machine (a page in a browser could send this)",
    "none", "ours",
)  # fmt: skip

# ---- models, configs, endpoints ----------------------------------------------------------------------------------------

NO_MODEL = KnownError("ValidationException", 400, 'Could not find model "{arn}".', OPERATOR, "O")
NO_CONFIG = KnownError(
    "ValidationException", 400, 'Could not find endpoint configuration "{arn}".', "terraform-provider-aws #40048", "O"
)
NO_ENDPOINT = KnownError("ValidationException", 400, 'Could not find endpoint "{arn}".', OPERATOR, "O")
MODEL_EXISTS = KnownError("ValidationException", 400, 'Cannot create already existing model "{arn}".', OPERATOR, "O")
CONFIG_EXISTS = KnownError(
    "ValidationException", 400, 'Cannot create already existing endpoint configuration "{arn}".', OPERATOR, "O"
)
ENDPOINT_EXISTS = KnownError("ValidationException", 400, 'Cannot create already existing endpoint "{arn}".', OPERATOR, "O")
IN_PROGRESS = KnownError("ValidationException", 400, 'Cannot update in-progress endpoint "{arn}".', OPERATOR, "O")
FAILED_ENDPOINT = KnownError(
    "ValidationException", 400, 'Cannot update endpoint "{arn}": it has failed, and can only be deleted.',
    "DescribeEndpoint: a Failed endpoint can only be deleted; the words are ours", "ours",
)  # fmt: skip
OTHER_VARIANTS = KnownError(
    "ValidationException", 400,
    'Endpoint configuration "{config}" has the variants {new}, and the endpoint has {old}: with a DeploymentConfig the '
    "names must be the same.",
    "deployment guardrails, exclusions; the words are ours", "ours",
)  # fmt: skip
NO_VARIANT = KnownError(
    "ValidationException", 400, 'The endpoint "{endpoint}" has no variant {variant}: it has {variants}.', "none", "ours"
)
NO_MODEL_DATA = KnownError(
    "ValidationException", 400, "Could not find model data at {url}.", "amazon-sagemaker-examples #2264, #4479", "O"
)
VARIANT_TWICE = KnownError("ValidationException", 400, "Production variant {name} is there twice.", "none", "ours")
BAD_IMAGE = KnownError(
    "ValidationException", 400,
    "The image {image} cannot be run: this endpoint runs process trees, so Image is `evenkeel` with model data, or the absolute "
    "path of a model folder.",
    "none", "ours",
)  # fmt: skip

# ---- the registry and tags ---------------------------------------------------------------------------------------------

NO_PACKAGE_GROUP = KnownError("ValidationException", 400, "Model Package Group {arn} does not exist.", "none", "ours")
NO_PACKAGE = KnownError("ValidationException", 400, "Model Package {arn} does not exist.", "none", "ours")
PACKAGE_GROUP_EXISTS = KnownError("ValidationException", 400, "Model Package Group {arn} already exists.", "none", "ours")
PACKAGE_EXISTS = KnownError("ValidationException", 400, "Model Package {arn} already exists.", "none", "ours")
PACKAGE_GROUP_FULL = KnownError(
    "ConflictException", 400, "Model Package Group {arn} holds model packages, and cannot be deleted.",
    "DeleteModelPackageGroup names ConflictException; the words are ours", "ours",
)  # fmt: skip
PACKAGE_NAMELESS = KnownError(
    "ValidationException", 400, "A model package needs a ModelPackageGroupName or a ModelPackageName.", "none", "ours"
)
NOT_APPROVED = KnownError(
    "ValidationException", 400, "Model Package {arn} is not approved: its ModelApprovalStatus is {status}.",
    "contract 5.3: an approved version is deployed; the words are ours", "ours",
)  # fmt: skip
NO_RESOURCE = KnownError("ResourceNotFound", 400, "Could not find the resource {arn}.", API + "; the words are ours", "ours")
TOO_MANY_TAGS = KnownError(
    "ResourceLimitExceeded", 400, "A resource can have at most {limit} tags.", API + "; the words are ours", "ours"
)

# ---- invocations -------------------------------------------------------------------------------------------------------

INVOKE_NO_ENDPOINT = KnownError(
    "ValidationError", 400, "Endpoint {name} of account {account} not found.", "amazon-sagemaker-examples #293, #559", "O"
)
INVOKE_NO_VARIANT = KnownError("ValidationError", 400, "Variant {variant} of endpoint {name} not found.", "none", "ours")
INVOKE_TOO_LARGE = KnownError(
    "413", 413, "HTTP content length exceeded {limit} bytes.", "sagemaker-python-sdk #171; the limit then was 5246976", "O"
)
INVOKE_NO_INSTANCE = KnownError(
    "ServiceUnavailable", 503, "No instance of variant {variant} is in service.", API + "; the words are ours", "ours"
)

# ---- S3 ----------------------------------------------------------------------------------------------------------------

S3 = "S3 API reference, list of error codes"  # codes and statuses; of the words only the first sentences
S3_NO_BUCKET = KnownError("NoSuchBucket", 404, "The specified bucket does not exist: {name}", S3, "D")
S3_NO_KEY = KnownError("NoSuchKey", 404, "The specified key does not exist: {key}", S3, "D")
S3_NO_UPLOAD = KnownError("NoSuchUpload", 404, "The specified multipart upload does not exist: {upload}", S3, "D")
S3_BUCKET_EXISTS = KnownError("BucketAlreadyOwnedByYou", 409, "You own the bucket {name} already.", S3, "D")
S3_BUCKET_FULL = KnownError("BucketNotEmpty", 409, "The bucket {name} is not empty.", S3, "D")
S3_BAD_BUCKET = KnownError("InvalidBucketName", 400, "The specified bucket is not valid: {name}", S3, "D")
S3_BAD_KEY = KnownError("InvalidArgument", 400, "The key {key} cannot be stored: {why}.", "none", "ours")
S3_KEY_IN_WAY = KnownError(
    "InvalidArgument",
    400,
    "The key {key} cannot be stored: a part of it is an object, or it is a part of others.",
    "none",
    "ours",
)
S3_BAD_PART = KnownError("InvalidPart", 400, "There is no part {number} with that ETag.", S3, "D")
S3_BAD_DIGEST = KnownError("BadDigest", 400, "The {name} that was sent does not fit what was received.", S3, "D")
S3_BAD_RANGE = KnownError("InvalidRange", 416, "The range {header} is not satisfiable: the object has {size} bytes.", S3, "D")
S3_MALFORMED_BODY = KnownError("IncompleteBody", 400, "The body is malformed: {why}.", S3, "D")
S3_MALFORMED_XML = KnownError("MalformedXML", 400, "The document is not the XML that this call takes.", S3, "D")
S3_NOT_SUPPORTED = KnownError(
    "NotImplemented",
    501,
    "{what} is not supported by evenkeel's S3 on this machine, and nothing was sent to AWS.",
    "none",
    "ours",
)
