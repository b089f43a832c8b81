"""evenkeel: an inference container for Amazon SageMaker, Kubernetes and laptops. Use it by its command and over HTTP."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("evenkeel")
except PackageNotFoundError:  # a checkout that was not installed
    __version__ = "0+unknown"
