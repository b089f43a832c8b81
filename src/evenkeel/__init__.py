"""evenkeel: an inference container for Amazon SageMaker, Kubernetes and laptops. Use it by its command and over HTTP."""

from __future__ import annotations

__version__: str


def __getattr__(name: str) -> str:
    """`__version__`, looked up when it is asked for: what reads it from the installation takes a megabyte of each process."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("evenkeel")
    except PackageNotFoundError:  # a checkout that was not installed
        return "0+unknown"
