"""S3 on loopback: moto in a process of its own, a proxy that can misbehave, a bucket per test."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import fsspec
import pytest

from tests.integration.stores.faulty_proxy import FaultyProxy, Plan
from tests.ports import free_port

SERVER = Path(__file__).with_name("moto_server.py")
KEY_ID, SECRET = "AKIAHEADRACESENTINEL", "sentinel+secret/0123456789abcdefghijkl"
START_SECONDS = 60.0


def wait_until_open(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, f"moto ended with {process.returncode}"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail(f"moto did not open port {port} in {START_SECONDS} s")


@pytest.fixture(scope="session")
def moto_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    port, log = free_port(), tmp_path_factory.mktemp("moto") / "moto.log"
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    with log.open("wb") as writer:
        process = subprocess.Popen(
            [sys.executable, str(SERVER), str(port)],
            stdout=writer,
            stderr=writer,
            env=environment,
        )
    try:
        wait_until_open(port, process)
        yield port
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="session")
def proxy(moto_port: int) -> Iterator[FaultyProxy]:
    server = FaultyProxy(moto_port)
    yield server
    server.close()


def s3_variables(proxy: FaultyProxy) -> dict[str, str]:
    """What a deployment sets: nothing of it stands in a URL or a file."""
    return {
        "AWS_ENDPOINT_URL": proxy.url,
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1,localhost",
    }


@pytest.fixture
def s3_environment(proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    values = s3_variables(proxy)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return values


def past_the_proxy(moto_port: int) -> Any:
    """A client that asks moto itself, with credentials of its own."""
    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{moto_port}",
        aws_access_key_id="x",
        aws_secret_access_key="x",
        region_name="us-east-1",
    )


@contextmanager
def new_bucket(moto_port: int) -> Iterator[str]:
    """A store's URL; the file systems that remember the address of an older server are forgotten."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    name = f"headrace-{uuid.uuid4().hex[:12]}"
    past_the_proxy(moto_port).create_bucket(Bucket=name)
    yield f"s3://{name}/store"
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture
def plan(proxy: FaultyProxy) -> Plan:
    return proxy.plan


@pytest.fixture
def s3_url(moto_port: int, s3_environment: dict[str, str]) -> Iterator[str]:
    with new_bucket(moto_port) as url:
        yield url


@pytest.fixture(params=("file", "s3"))
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same suite on both kinds of store."""
    if request.param == "file":
        return f"file://{tmp_path}/store"
    return str(request.getfixturevalue("s3_url"))
