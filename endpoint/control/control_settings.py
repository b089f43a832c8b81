"""What the endpoint at home is told at its start, and the names that AWS would give things: account, region, ARNs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ACCOUNT = "000000000000"  # no account of anybody's
ZONES = ("zone-a", "zone-b")


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """`speed` shortens waits of deployments. `payload_mb`: sources conflict, 6 by the API's model, 25 by the FAQ."""

    home: Path
    port: int
    router_port: int
    region: str = "us-east-1"
    speed: float = 1.0
    payload_mb: float = 6.0
    zones: tuple[str, ...] = ZONES

    def arn(self, kind: str, name: str) -> str:
        """As SageMaker writes them: names are in lower case there (O: ARNs of public traces)."""
        return f"arn:aws:sagemaker:{self.region}:{ACCOUNT}:{kind}/{name.lower()}"

    @property
    def bucket_folder(self) -> Path:
        """What is at s3://BUCKET/KEY is the file BUCKET/KEY in it."""
        return self.home / "s3"
