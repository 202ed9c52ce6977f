"""A store in a bucket of an object store: S3 and what speaks its protocol, Google Cloud Storage, Azure Blob Storage.

An object appears whole and is durable when the request that writes it returns. No lock holds other writers off: a name
is changed by a conditional write, which fails if another writer changed it first. A reply that is lost looks the same
as that, so what the name refers to is then read: if it is what was to be written, the write was made.

Icechunk reads and writes the repository; everything else goes through the package `obstore`. Both read credentials from
the environment. This module knows objects; not what they contain.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import secrets
from collections.abc import Hashable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sifu_store.chunk_cache import ChunkCache
from sifu_store.errors import (
    OptionError,
    StoreConflictError,
    StoreError,
    StoreNotFoundError,
    StoreUnreachableError,
    first_line,
)
from sifu_store.names import ACKNOWLEDGED_NAME, DELETED_FILE, REFERENCE_FILE, REFERENCES, REPOSITORY_NAME
from sifu_store.place import Place
from sifu_store.refs import BRANCH, EMPTY, MAIN, TAG, described, is_snapshot_id

if TYPE_CHECKING:
    import icechunk

SCHEMES = ("s3", "gs", "az")
"""Beginnings of the URLs of buckets."""

ENDPOINTS = ("SIFU_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""Environment variables with the address of a server that speaks the protocol of S3; the first that is set counts."""

CREDENTIALS = (
    "AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)  # fmt: skip
"""Environment variables of which one gives the credentials for a server with an address of its own."""

CACHE_GIB = "SIFU_BUCKET_CACHE_GIB"
"""Environment variable with the greatest size of the chunks of a store that are kept on this machine, in GiB."""
DEFAULT_CACHE_GIB = 10

TRIES = 5
"""How often a request is made that gets no reply, or a reply that the server is busy."""
CONNECT_S, REPLY_S, ALL_TRIES_S = 5, 30, 20
"""Longest times in seconds: to connect, for one reply, and for all tries of a request to begin."""
AT_ONCE = 16
"""Requests at the same time."""

_CODE = re.compile(r"<Code>([^<]*)</Code>(?:\s*<Message>([^<]*)</Message>)?")


class NoLock:
    """The right to write to a store in a bucket, which everyone has who can commit."""

    def release(self) -> None:
        """Nothing was taken."""


class Bucket(Place):
    """A prefix in a bucket.

    Parameters
    ----------
    directory
        Folder on this machine for what is not in the repository.
    scheme
        One of `SCHEMES`.
    endpoint
        Address of the server; None: that of the provider.
    bucket, prefix
        Its name, and the path in it.
    """

    whole_files: ClassVar[bool] = True

    def __init__(self, directory: Path, *, scheme: str, endpoint: str | None, bucket: str, prefix: str) -> None:
        super().__init__(directory)
        self.scheme, self.endpoint, self.bucket, self.prefix = scheme, endpoint, bucket, prefix

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.prefix}"

    # ---- the repository

    def storage(self) -> icechunk.Storage:
        """Icechunk's own for each provider."""
        import icechunk

        prefix = f"{self.prefix}/{REPOSITORY_NAME}"
        if self.scheme == "gs":
            return icechunk.gcs_storage(bucket=self.bucket, prefix=prefix, from_env=True)
        if self.scheme == "az":
            account = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME", "")
            return icechunk.azure_storage(account=account, container=self.bucket, prefix=prefix, from_env=True)
        public = _public()
        return icechunk.s3_storage(
            bucket=self.bucket,
            prefix=prefix,
            region=_region(),
            endpoint_url=self.endpoint,
            allow_http=_is_plain(self.endpoint),
            force_path_style=self.endpoint is not None,
            anonymous=public or None,
            from_env=None if public else True,
            network_stream_timeout_seconds=REPLY_S,
        )

    def require(self, given: str) -> None:
        """Look for the branch that every store has."""
        try:
            self.read(f"{REFERENCES}/{BRANCH}{MAIN}/{REFERENCE_FILE}")
        except FileNotFoundError:
            raise StoreNotFoundError(
                f"{self} has no store: create one with `build_graph()`, or give another `path`"
            ) from None
        with contextlib.suppress(OSError):  # to read, nothing is needed there
            self.directory.mkdir(parents=True, exist_ok=True)

    def check_folders(self) -> None:
        """There are no folders."""

    def check(self) -> None:
        """An object is nothing but bytes."""

    def check_reference(self, name: str) -> None:
        """An object is nothing but bytes."""

    def lock(self) -> NoLock:
        """Check that the bucket has conditional writes, which take the place of the lock."""
        probe = f"{self.prefix}/probe-{secrets.token_hex(8)}"
        with self._errors():
            import obstore

            obstore.put(self._client, probe, b"1")
            refused = 0
            modes: tuple[Any, ...] = ("create", {"e_tag": f'"{"0" * 32}"', "version": "1"})
            for mode in modes:
                try:
                    obstore.put(self._client, probe, b"2", mode=mode)
                except (obstore.exceptions.AlreadyExistsError, obstore.exceptions.PreconditionError):
                    refused += 1
            obstore.delete(self._client, probe)
        if refused < 2:
            raise StoreError(
                f"{self}: the server ignores the conditions of writes (If-Match, If-None-Match), so a second writer "
                "could destroy commits of the first: no store is written there; use a server with conditional writes"
            )
        return NoLock()

    # ---- files

    def read(self, name: str) -> bytes:
        """The content of an object."""
        return self._read(name)[0]

    def files(self, folder: str) -> dict[str, int]:
        """One request for each 1,000 objects."""
        with self._errors():
            import obstore

            found = obstore.list_with_delimiter(self._client, f"{self.prefix}/{folder}")
        objects = (
            each for each in found["objects"] if each["path"] != f"{self.prefix}/{folder}"
        )  # the mark of a folder
        return {Path(each["path"]).name: each["size"] for each in objects}

    def write(self, name: str, data: bytes) -> None:
        """One request."""
        with self._errors():
            import obstore

            obstore.put(self._client, f"{self.prefix}/{name}", data)

    def add(self, name: str, data: bytes) -> None:
        """As `write`."""
        self.write(name, data)

    def remove(self, names: Iterable[str]) -> None:
        """One request for each 1,000 objects."""
        with self._errors():
            import obstore

            obstore.delete(self._client, [f"{self.prefix}/{name}" for name in names])

    def sync(self) -> None:
        """An object that was written is durable."""

    def require_free_bytes(self, needed_bytes: int, what: str) -> None:
        """A bucket has no size."""

    def size_bytes(self) -> int:
        """Of all objects: one request for each 1,000."""
        with self._errors():
            import obstore

            return sum(each["size"] for batch in obstore.list(self._client, self.prefix) for each in batch)

    def cache(self) -> ChunkCache | None:
        """Files in the folder of the store, up to the size that the environment gives."""
        text = os.environ.get(CACHE_GIB, "")
        try:
            size_bytes = int(float(text or DEFAULT_CACHE_GIB) * (1 << 30))
        except (ValueError, OverflowError):
            raise OptionError(f"${CACHE_GIB} is {text!r}: expected a number of GiB") from None
        return ChunkCache(self.directory / "chunks", size_bytes) if size_bytes > 0 else None

    # ---- references

    def references(self) -> tuple[dict[str, str], dict[str, str], set[str]]:
        """One request for the names, and one for each reference."""
        with self._errors():
            import obstore

            batches = list(obstore.list(self._client, f"{self.prefix}/{REFERENCES}"))
        files = {tuple(each["path"].rsplit("/", 2)[-2:]) for batch in batches for each in batch}
        deleted = {name for name, file in files if file == DELETED_FILE and name.startswith(TAG)}
        names = sorted(
            name
            for name, file in files
            if file == REFERENCE_FILE and name.startswith((BRANCH, TAG)) and name not in deleted
        )
        found: dict[str, str] = {}
        unreadable: dict[str, str] = {}
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for name, (snapshot, _) in zip(names, pool.map(self._reference, names), strict=True):
                if snapshot is None:  # deleted in the meantime
                    continue
                if is_snapshot_id(snapshot):
                    found[name] = snapshot
                else:
                    unreadable[name] = f"its file {REFERENCE_FILE} is damaged"
        return found, unreadable, deleted

    def point(self, names: Mapping[str, str], *, expected: Mapping[str, str | None] | None = None) -> None:
        """One write for each name, conditional where something is expected."""
        expected = expected or {}
        for name, snapshot in names.items():
            if name in expected:
                self._point(name, snapshot, expected[name])
            else:
                self.write(_file(name), _content(snapshot))

    def drop(self, names: Mapping[str, str | None]) -> None:
        """Delete each; one that others may change is first made to refer to no commit, so that they notice."""
        for name, tip in names.items():
            if tip is not None:
                self._point(name, EMPTY, tip)
        self.remove([_file(name) for name in names])

    def restored_on_error(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Moving it is the last that is written; what was moved stays moved, since others may have seen it."""
        return contextlib.nullcontext()

    def mark_deleted(self, tag: str) -> None:
        """Write the object that marks it."""
        self.write(f"{REFERENCES}/{TAG}{tag}/{DELETED_FILE}", b"")

    # ---- changes by other processes

    def identity(self) -> None:
        """Unknown."""

    def state(self) -> Hashable:
        """The tags of the references and of the record of the current branch, which change with their content."""
        with self._errors():
            import obstore

            found = [each for batch in obstore.list(self._client, f"{self.prefix}/{REFERENCES}") for each in batch]
            with contextlib.suppress(FileNotFoundError):
                found.append(obstore.head(self._client, f"{self.prefix}/{ACKNOWLEDGED_NAME}"))
        return frozenset((each["path"], each["e_tag"]) for each in found)

    def require_reachable(self) -> None:
        """Read the branch that every store has."""
        with contextlib.suppress(FileNotFoundError):
            self.read(_file(BRANCH + MAIN))

    # ---- inside

    @property
    def _client(self) -> Any:
        names = sorted(name for name in os.environ if name.startswith(("AWS_", "GOOGLE_", "AZURE_")))
        return _client(self.scheme, self.endpoint, self.bucket, tuple((name, os.environ[name]) for name in names))

    def _read(self, name: str) -> tuple[bytes, dict[str, str]]:
        """The content of an object and its tag and version, which change with the content."""
        with self._errors():
            import obstore

            found = obstore.get(self._client, f"{self.prefix}/{name}")
            version = {"e_tag": found.meta["e_tag"], "version": found.meta["version"]}
            return bytes(found.bytes()), {part: value for part, value in version.items() if value is not None}

    def _reference(self, name: str) -> tuple[str | None, dict[str, str] | None]:
        """The snapshot id of a reference, "" if it is damaged, and its tag and version; None: there is none."""
        try:
            content, version = self._read(_file(name))
        except FileNotFoundError:
            return None, None
        try:
            return str(json.loads(content)["snapshot"]), version
        except (ValueError, KeyError, TypeError, RecursionError):
            return "", version

    def _point(self, name: str, snapshot: str, expected: str | None) -> None:
        """Make a name refer to a snapshot, if it refers to what is expected."""
        before, version = self._reference(name)
        if before == expected:
            with self._errors():
                import obstore

                mode: Any = "create" if version is None else version
                try:
                    obstore.put(self._client, f"{self.prefix}/{_file(name)}", _content(snapshot), mode=mode)
                    return
                except obstore.exceptions.BaseError as error:
                    before, _ = self._reference(name)
                    if before == snapshot:  # the reply to this or to an earlier try was lost
                        return
                    if before == expected:
                        raise self._error(error) from error
        found = "is there already" if expected is None else "is gone" if before is None else f"is now at {before[:8]}"
        raise StoreConflictError(
            f"{self}: another process changed {described(name)}, which {found}: nothing was changed; repeat the command"
        )

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise the errors of the object store as sifu's own; a missing object stays a `FileNotFoundError`."""
        try:
            import obstore
        except ImportError as error:
            raise StoreError(f"{self} needs the package obstore: pip install 'sifu-graph[bucket]'") from error
        try:
            yield
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error) or "ContainerNotFound" in str(error):
                raise self._no_bucket() from error
            raise
        except obstore.exceptions.BaseError as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> StoreError:
        text = str(error)
        found = _CODE.search(text)
        code, said = (found[1], f"{found[1]}: {found[2] or ''}".rstrip(" .:")) if found else ("", first_line(error))
        server = self.endpoint or f"the provider of {self.scheme}://"
        if code in ("NoSuchBucket", "ContainerNotFound"):
            return self._no_bucket()
        if code == "RequestTimeTooSkewed":
            return StoreUnreachableError(f"{self}: the clock of this machine is wrong ({said}): correct it")
        if found is None and "error sending request" in text:
            said = "no connection" if "Connect" in text else "no reply"
        if "403 Forbidden" in text or "401 Unauthorized" in text:
            return StoreUnreachableError(
                f"{self}: {server} denies access ({said}): check the credentials in the environment"
                + (" (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)" if self.scheme == "s3" else "")
            )
        return StoreUnreachableError(
            f"{self}: {server} cannot be reached ({said}): check the network"
            + (f" and the address (${', $'.join(ENDPOINTS)})" if self.scheme == "s3" else "")
        )

    def _no_bucket(self) -> StoreNotFoundError:
        where = f" at {self.endpoint}" if self.endpoint else ""
        return StoreNotFoundError(f"there is no bucket {self.bucket}{where}: create it, or name another")


def endpoint_of(scheme: str) -> str | None:
    """The address of the server from the environment; None: that of the provider.

    Raises
    ------
    OptionError
        It is no address.
    """
    name = next((name for name in ENDPOINTS if os.environ.get(name)), None)
    if scheme != "s3" or name is None:
        return None
    address = os.environ[name].rstrip("/")
    if not address.startswith(("http://", "https://")):
        raise OptionError(f"${name} is {address}: expected http://HOST:PORT or https://HOST")
    return address


def _file(reference: str) -> str:
    return f"{REFERENCES}/{reference}/{REFERENCE_FILE}"


def _content(snapshot: str) -> bytes:
    return json.dumps({"snapshot": snapshot}).encode()


def _region() -> str:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"


def _public() -> bool:
    """Whether requests are not signed: the bucket is open to all."""
    return os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true")


def _is_plain(endpoint: str | None) -> bool:
    return endpoint is not None and endpoint.startswith("http://")


@functools.cache
def _client(scheme: str, endpoint: str | None, bucket: str, environment: tuple[tuple[str, str], ...]) -> Any:
    """The client of a bucket, which keeps its connections. It reads credentials from this environment."""
    from obstore.store import AzureStore, GCSStore, S3Store

    options: Any = {
        "client_options": {
            "connect_timeout": timedelta(seconds=CONNECT_S),
            "timeout": timedelta(seconds=REPLY_S),
            "allow_http": _is_plain(endpoint),
        },
        "retry_config": {"max_retries": TRIES - 1, "retry_timeout": timedelta(seconds=ALL_TRIES_S)},
    }
    if scheme == "gs":
        return GCSStore(bucket, **options)
    if scheme == "az":
        return AzureStore(bucket, **options)
    if endpoint is not None and not _public() and not any(map(os.environ.get, CREDENTIALS)):
        raise StoreUnreachableError(
            f"s3://{bucket} at {endpoint}: there are no credentials in the environment: set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=1 for a bucket that is open to all"
        )
    config: Any = {"region": _region(), "skip_signature": _public()} | (
        {} if endpoint is None else {"endpoint": endpoint}
    )
    return S3Store(bucket, config=config, **options)
