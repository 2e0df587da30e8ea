"""An S3 server on loopback that counts requests and answers each after a given latency: what a bucket far away does.

    with S3Server(latency_s=0.03) as server:
        server.counts()                              # {"PUT parts": 12, "GET shards": 3, ...}

It holds objects in memory and knows what an S3 client of a run asks: put, get (of a range), head, list, delete one or a
thousand. Requests are told apart by method and folder of the key. Latency is waiting, not work: requests wait side by
side. It can be away for a while: connections are refused and those that are open are cut.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from contextlib import suppress
from typing import Any, Self
from xml.etree import ElementTree
from xml.sax.saxutils import escape

BUCKET = "runs"


class S3Server:
    """The server in a process of its own; the environment tells all later processes of it."""

    def __init__(self, latency_s: float = 0.0):
        self._latency_s = latency_s

    def __enter__(self) -> Self:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self._port = s.getsockname()[1]
        self.process = subprocess.Popen([sys.executable, __file__, str(self._port), str(self._latency_s)])
        os.environ |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}", "AWS_DEFAULT_REGION": "us-east-1"}
        os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "NO_PROXY": "127.0.0.1"}
        # Bodies as they are: checksums of chunks would be a protocol of their own.
        os.environ["AWS_REQUEST_CHECKSUM_CALCULATION"] = "when_required"
        while self.process.poll() is None:
            with suppress(OSError):
                self.counts()
                return self
            time.sleep(0.1)
        raise RuntimeError("the S3 server did not start")

    def _ask(self, path: str) -> Any:
        return json.loads(urllib.request.urlopen(f"http://127.0.0.1:{self._port}/{path}", timeout=10).read())

    def counts(self) -> dict[str, int]:
        """Requests so far, by method and folder."""
        return self._ask("-counts")

    def put(self, key: str, data: bytes) -> None:
        """An object, whatever its size, in one request."""
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/{BUCKET}/{key}", data, method="PUT")
        urllib.request.urlopen(request, timeout=60).close()

    def sent(self) -> dict[str, int]:
        """Bytes of objects sent so far, by folder."""
        return self._ask("-sent")

    @property
    def meeting(self) -> str:
        """Where each of many processes GETs `<meeting>/<its name>` to learn how many have done so."""
        return f"http://127.0.0.1:{self._port}/-meet"

    def put_times(self, folder: str) -> list[float]:
        """When objects were written below a folder: `time.time()` of each."""
        return self._ask(f"-times/{folder}")

    def delay(self, seconds: float) -> None:
        """Answer each request after so long from now on."""
        self._ask(f"-delay/{seconds}")

    def away(self, seconds: float) -> None:
        """Answer nobody from now on for so long; returns at once. The objects stay."""
        self._ask(f"-away/{seconds}")

    def __exit__(self, *exc: object) -> None:
        self.process.terminate()
        self.process.wait()


def serve(port: int, latency_s: float) -> None:
    """Answer until the process is ended."""
    from aiohttp import web

    objects: dict[str, bytes] = {}
    counts: Counter[str] = Counter()
    sent: Counter[str] = Counter()
    written: list[tuple[str, float]] = []
    met: set[str] = set()
    site: list[web.TCPSite] = []
    leaving: list[asyncio.Task] = []
    back = asyncio.Event()

    def xml(text: str) -> web.Response:
        return web.Response(
            body=f'<?xml version="1.0" encoding="UTF-8"?>{text}'.encode(), content_type="application/xml"
        )

    def folder_of(key: str) -> str:
        parts = key.split("/")  # run/parts/x -> parts
        return parts[1] if len(parts) > 2 else parts[-1].split("-")[0]

    def listing(query: Any) -> web.Response:
        prefix, start = query.get("prefix", ""), query.get("continuation-token") or query.get("start-after") or ""
        most, delimiter = int(query.get("max-keys", 1000)), query.get("delimiter", "")
        keys = sorted(k for k in objects if k.startswith(prefix) and k > start)
        folders: set[str] = set()
        if delimiter:
            below = {k: k[len(prefix) :].split(delimiter) for k in keys}
            folders = {f"{prefix}{p[0]}{delimiter}" for p in below.values() if len(p) > 1}
            keys = [k for k in keys if len(below[k]) == 1]
        more, keys = len(keys) > most, keys[:most]
        items = "".join(
            f"<Contents><Key>{escape(k)}</Key><Size>{len(objects[k])}</Size><ETag>&quot;{hash(k):x}&quot;</ETag>"
            f"<LastModified>2026-01-01T00:00:00.000Z</LastModified><StorageClass>STANDARD</StorageClass></Contents>"
            for k in keys
        )
        items += "".join(f"<CommonPrefixes><Prefix>{escape(f)}</Prefix></CommonPrefixes>" for f in sorted(folders))
        token = f"<NextContinuationToken>{escape(keys[-1])}</NextContinuationToken>" if more else ""
        return xml(
            f"<ListBucketResult><Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(keys)}</KeyCount>"
            f"<MaxKeys>{most}</MaxKeys><IsTruncated>{str(more).lower()}</IsTruncated>{token}{items}</ListBucketResult>"
        )

    async def go_away(seconds: float) -> None:
        back.clear()
        await site[0].stop()
        await asyncio.sleep(seconds)
        await listen()
        back.set()

    delay_s = latency_s

    async def answer(request: web.Request) -> web.Response:
        nonlocal delay_s
        bucket, _, key = request.path.lstrip("/").partition("/")
        if bucket == "-delay":
            delay_s = float(key)
            return web.json_response({})
        if bucket == "-away":
            leaving.append(asyncio.create_task(go_away(float(key))))
            return web.json_response({})
        if not back.is_set():
            assert request.transport is not None
            request.transport.abort()
            return web.Response(status=503)
        if bucket == "-counts":
            return web.json_response(counts)
        if bucket == "-sent":
            return web.json_response(sent)
        if bucket == "-meet":
            met.add(key)
            return web.json_response(len(met))
        if bucket == "-times":
            return web.json_response([t for f, t in written if f == key])
        body = await request.read()
        method = request.method
        if method == "GET" and not key:
            counts[f"LIST {(request.query.get('prefix', '').rstrip('/') + '//').split('/')[1] or 'run'}"] += 1
        elif method == "POST":
            counts["DELETE of many"] += 1
        else:
            counts[f"{method} {folder_of(key)}"] += 1
        await asyncio.sleep(delay_s)
        if method == "POST" and "delete" in request.query:
            names = [
                e.text or "" for e in ElementTree.fromstring(body).iter() if e.tag.endswith("}Key") or e.tag == "Key"
            ]
            for n in names:
                objects.pop(n, None)
            return xml("<DeleteResult/>")
        if not key:
            return listing(request.query) if method == "GET" else web.Response()
        if method == "PUT":
            objects[key] = body
            written.append((folder_of(key), time.time()))
            return web.Response(headers={"ETag": f'"{hash(key):x}"'})
        if method == "DELETE":
            objects.pop(key, None)
            return web.Response(status=204)
        if key not in objects:
            return web.Response(status=404, text="" if method == "HEAD" else "<Error><Code>NoSuchKey</Code></Error>")
        data, status = objects[key], 200
        headers = {"ETag": f'"{hash(key):x}"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        if method == "HEAD":
            return web.Response(headers=headers | {"Content-Length": str(len(data))})
        if wanted := request.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            a, b = int(first), min(int(last or len(data)), len(data) - 1)
            headers["Content-Range"], status = f"bytes {a}-{b}/{len(data)}", 206
            data = data[a : b + 1]
        sent[folder_of(key)] += len(data)
        return web.Response(body=data, status=status, headers=headers)

    async def listen() -> None:
        site[:] = [web.TCPSite(runner, "127.0.0.1", port, reuse_address=True)]
        await site[0].start()

    async def run() -> None:
        await runner.setup()
        back.set()
        await listen()
        await asyncio.Event().wait()

    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    asyncio.run(run())


if __name__ == "__main__":
    serve(int(sys.argv[1]), float(sys.argv[2]))
