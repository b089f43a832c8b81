"""A home of `evenkeel endpoint` in a folder of its own, started and ended as people do, and what it leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from tests.support.tree import ARTIFACTS, EVENKEEL, ROOT, clean_environment

UP_S = 90.0
ROLE = "arn:aws:iam::000000000000:role/r"


class Home:
    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ekh-"))
        self.environ = {**clean_environment({}), "EVENKEEL_HOME": str(self.folder / "home"), "HOME": str(self.folder)}

    def command(self, *words: str, code: int = 0) -> str:
        done = subprocess.run([str(EVENKEEL), "endpoint", *words], env=self.environ, capture_output=True, text=True, timeout=UP_S)
        assert done.returncode == code, done.stdout + done.stderr + self.log()
        return done.stdout + done.stderr

    def up(self, *words: str) -> None:
        self.command("up", "--detach", "--port", "0", *words)

    def exports(self) -> dict[str, str]:
        lines = self.command("env").splitlines()
        return dict(line.removeprefix("export ").split("=", 1) for line in lines if line.startswith("export "))

    def client(self, service: str) -> Any:
        told = self.exports()
        url = told["AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME" if service == "sagemaker-runtime" else "AWS_ENDPOINT_URL"]
        return boto3.client(service, endpoint_url=url, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b",
                            config=Config(retries={"total_max_attempts": 1}, proxies={}))  # fmt: skip

    def script(self, path: Path, *words: str) -> str:
        """A program that knows nothing of us, with the exports and without any other settings of AWS."""
        environ = {k: v for k, v in self.environ.items() if not k.startswith("AWS_")} | self.exports()
        command = [EVENKEEL.with_name("python"), path, *words]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=240, cwd=ROOT)
        assert done.returncode == 0, done.stdout + done.stderr + self.log()
        return done.stdout

    def config(self, name: str, image: str | Path, instances: int = 2) -> None:
        sagemaker = self.client("sagemaker")
        sagemaker.create_model(ModelName=name, PrimaryContainer={"Image": str(image)}, ExecutionRoleArn=ROLE)
        variant = {"VariantName": "main", "ModelName": name, "InitialInstanceCount": instances, "InstanceType": "ml.m5.large"}
        sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])

    def wait(self, endpoint: str, waiter: str = "endpoint_in_service") -> dict[str, Any]:
        self.client("sagemaker").get_waiter(waiter).wait(EndpointName=endpoint, WaiterConfig={"Delay": 1, "MaxAttempts": 180})
        return {} if "deleted" in waiter else dict(self.client("sagemaker").describe_endpoint(EndpointName=endpoint))

    @property
    def journal(self) -> Path:
        return self.folder / "home" / "endpoint" / "journal.jsonl"

    def instance_pids(self) -> dict[str, int]:
        rows: dict[str, Any] = {}
        for line in self.journal.read_bytes().splitlines():
            rows |= {key: row for table, key, row in json.loads(line) if table == "instances"}
        return {key: row["running"]["pid"] for key, row in rows.items() if row and row["running"]}

    def processes(self) -> list[str]:
        """Command lines of everything that runs with this home among its variables or arguments."""
        mark, found = str(self.folder).encode(), []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    words = (entry / "cmdline").read_bytes()
                    if mark in words or mark in (entry / "environ").read_bytes():
                        found.append(words.replace(b"\0", b" ").decode())
                except OSError:
                    continue
        return found

    def log(self) -> str:
        path = self.folder / "home" / "endpoint" / "output.log"
        return path.read_text() if path.exists() else ""

    def remove(self) -> None:
        """After a test that may have failed."""
        subprocess.run([str(EVENKEEL), "endpoint", "down"], env=self.environ, capture_output=True, timeout=UP_S)
        shutil.rmtree(self.folder, ignore_errors=True)


ECHO, DIGITS = ARTIFACTS / "echo", ARTIFACTS / "digits"
