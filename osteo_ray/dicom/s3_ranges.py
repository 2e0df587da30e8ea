"""Parts of S3 objects, read by obstore from where s3fs would read them.

A study is some hundreds of small reads, and each costs s3fs several times the CPU that it costs obstore
(docs/decisions/object-stores.md). Endpoint, region and credentials are those that s3fs found. What fails here is asked
of s3fs again, by the caller: its errors, retries and redirects are the ones that the package knows.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from fsspec.asyn import sync

AT_ONCE = 64
"""Requests under way at once, of many objects' headers."""
GIVEN_UP = 3
"""Failures before anything was ever read of a bucket, after which s3fs alone is asked for it."""
KEPT_FOR = timedelta(minutes=10)
"""How long credentials are used before botocore is asked again; it renews them 15 minutes before their end."""
CONNECT, ANSWER = "5s", "60s"
"""The longest wait for a connection, and for all of an answer: a slice of half a megabyte over a slow line, too."""


class S3Ranges:
    """Parts of objects of the buckets that an `s3fs.S3FileSystem` reaches. Paths are s3fs's: `bucket/key`."""

    def __init__(self, fs: Any):
        self._fs = fs
        self._stores: dict[str, Any] = {}
        self._lock = asyncio.Lock()
        self._failed: Counter[str] = Counter()
        self._worked: set[str] = set()
        self._usable = _plain_settings(fs)

    def read(self, path: str, offset: int, length: int) -> bytes | None:
        """Bytes of one object, fewer where it ends; None: it did not work, ask s3fs."""
        return self.read_each([path], offset, length)[0]

    def read_each(self, paths: Sequence[str], offset: int, length: int) -> list[bytes | None]:
        """The same bytes of each of many objects, side by side."""
        if not self._usable:
            return [None] * len(paths)
        return sync(self._fs.loop, self._read_each, paths, offset, length)

    async def _read_each(self, paths: Sequence[str], offset: int, length: int) -> list[bytes | None]:
        limit = asyncio.Semaphore(AT_ONCE)

        async def one(path: str) -> bytes | None:
            async with limit:
                return await self._read(path, offset, length)

        return await asyncio.gather(*map(one, paths))

    async def _read(self, path: str, offset: int, length: int) -> bytes | None:
        bucket, _, key = path.partition("/")
        if bucket not in self._worked and self._failed[bucket] >= GIVEN_UP:
            return None
        try:
            import obstore

            async with self._lock:
                if bucket not in self._stores:
                    self._stores[bucket] = await self._store(bucket)
            data = bytes(await obstore.get_range_async(self._stores[bucket], key, start=offset, length=length))
        except Exception:  # whatever it is, s3fs is asked and says it
            self._failed[bucket] += 1
            return None
        self._worked.add(bucket)
        return data

    async def _store(self, bucket: str) -> Any:
        from obstore.store import S3Store

        client = await self._fs.set_session()
        region, endpoint = client.meta.region_name or "us-east-1", client.meta.endpoint_url
        where: dict[str, Any] = {"region": region}
        if endpoint in (f"https://s3.{region}.amazonaws.com", "https://s3.amazonaws.com"):
            # AWS's own: a bucket answers in its region alone.
            answer = await client.head_bucket(Bucket=bucket)
            headers = answer["ResponseMetadata"]["HTTPHeaders"]
            where["region"] = headers.get("x-amz-bucket-region", region)
        else:
            where |= {"endpoint": endpoint, "virtual_hosted_style_request": False}
        if self._fs.anon:
            where["skip_signature"] = True
        else:
            where["credential_provider"] = self._credentials
        options: Any = {"allow_http": endpoint.startswith("http://"), "connect_timeout": CONNECT, "timeout": ANSWER}
        return S3Store(bucket, client_options=options, retry_config={"max_retries": 0}, **where)

    async def _credentials(self) -> dict[str, Any]:
        """As obstore asks for them, from the session of s3fs."""
        found = await self._fs.session.get_credentials()
        now = await found.get_frozen_credentials()
        return {
            "access_key_id": now.access_key,
            "secret_access_key": now.secret_key,
            "token": now.token,
            "expires_at": datetime.now(UTC) + KEPT_FOR,
        }


def _plain_settings(fs: Any) -> bool:
    """Whether s3fs has no settings of its own (keys, a profile, versions, who pays) that obstore would not heed."""
    own = (fs.key, fs.kwargs, fs.client_kwargs, fs.config_kwargs, fs.requester_pays, fs.version_aware)
    return not any(own)
