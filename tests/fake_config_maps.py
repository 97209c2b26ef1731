"""ConfigMaps as the API server keeps them, on loopback: versions, conflicts, selectors, watches.

tests/unit and tests/cluster run the same contract over this and over a real API server.
"""

from __future__ import annotations

import copy
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Fault = Callable[[str, str], int | None]  # (method, path) -> status to answer, 0: hang up


def status(code: int, reason: str, message: str = "as told") -> dict[str, Any]:
    return {
        "kind": "Status",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
    }


class FakeConfigMaps:
    """One namespace; `fault` may answer in its place, before or (lost) after it has acted."""

    def __init__(self) -> None:
        self.maps: dict[str, dict[str, Any]] = {}
        self.events: list[tuple[int, dict[str, Any]]] = []
        self.version = 100
        self.oldest = 0  # changes before are not kept any more
        self.asked: list[str] = []
        self.fault: Fault = lambda method, path: None
        self.lost: Fault = lambda method, path: None
        self.changed = threading.Condition()
        self.stopped = False

    def answer(self, method: str, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        with self.changed:
            self.asked.append(f"{method} {path}")
            told = self.fault(method, path)
            if told is not None:
                return told, status(told, "AsTold")
            said = self._act(method, path, body)
            gone = self.lost(method, path)
            return said if gone is None else (gone, status(gone, "AsTold"))

    def _act(self, method: str, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        found = urlsplit(path)
        words = found.path.split("/")[1:]  # api v1 namespaces NS configmaps [NAME]
        namespace, name = words[3], words[5] if len(words) > 5 else None
        if method == "POST":
            return self._create(namespace, body)
        if name is None:
            return 200, self._list(parse_qs(found.query))
        kept = self.maps.get(name)
        if kept is None:
            return 404, status(404, "NotFound", f'configmaps "{name}" not found')
        if method == "PUT":
            return self._replace(kept, body)
        if method == "DELETE":
            del self.maps[name]
            self._tell("DELETED", kept)
            return 200, status(200, "Success")
        return 200, copy.deepcopy(kept)

    def _create(self, namespace: str, body: Any) -> tuple[int, dict[str, Any]]:
        name = body["metadata"]["name"]
        if name in self.maps:
            return 409, status(409, "AlreadyExists", f'configmaps "{name}" already exists')
        made = copy.deepcopy(body)
        made["metadata"] |= {"namespace": namespace, "uid": str(uuid.uuid4())}
        self.maps[name] = made
        self._tell("ADDED", made)
        return 201, copy.deepcopy(made)

    def _replace(self, kept: dict[str, Any], body: Any) -> tuple[int, dict[str, Any]]:
        asked, has = body["metadata"], kept["metadata"]
        if asked.get("uid") not in {None, has["uid"]}:
            return 409, status(409, "Conflict", "the UID in the precondition differs")
        if asked.get("resourceVersion") not in {None, "", has["resourceVersion"]}:
            return 409, status(409, "Conflict", "the object has been modified")
        if sum(len(text.encode()) for text in (body.get("data") or {}).values()) > 1024 * 1024:
            return 422, status(422, "Invalid", "must have at most 1048576 bytes")
        if (body.get("data"), asked.get("labels")) == (kept.get("data"), has.get("labels")):
            return 200, copy.deepcopy(kept)  # the API writes nothing that is equal
        kept["data"] = copy.deepcopy(body.get("data"))
        has["labels"] = copy.deepcopy(asked.get("labels"))
        self._tell("MODIFIED", kept)
        return 200, copy.deepcopy(kept)

    def _tell(self, kind: str, changed: dict[str, Any]) -> None:
        self.version += 1
        changed["metadata"]["resourceVersion"] = str(self.version)
        self.events.append((self.version, {"type": kind, "object": copy.deepcopy(changed)}))
        self.changed.notify_all()

    def _list(self, query: dict[str, list[str]]) -> dict[str, Any]:
        items = [copy.deepcopy(one) for one in self.maps.values() if _chosen(one, query)]
        meta = {"resourceVersion": str(self.version)}
        return {"kind": "ConfigMapList", "apiVersion": "v1", "metadata": meta, "items": items}

    def compact(self) -> None:
        """Forget all changes until now."""
        with self.changed:
            self.oldest = self.version

    def stream(self, path: str) -> Iterator[dict[str, Any]]:
        """Yield the events of a watch as they come, until its time is over."""
        query = parse_qs(urlsplit(path).query)
        since = int(query["resourceVersion"][0])
        end = time.monotonic() + float(query["timeoutSeconds"][0])
        while time.monotonic() < end and not self.stopped:
            if since < self.oldest:
                too_old = status(410, "Expired", "too old resource version")
                yield {"type": "ERROR", "object": too_old}
                return
            with self.changed:
                self.changed.wait(0.05)
                fresh = [told for told in self.events if told[0] > since]
                broken = self.fault("WATCH", path) is not None
            if broken:
                return
            for since, event in fresh:  # noqa: B007  the last one counts afterwards
                if _chosen(event["object"], query):
                    yield event


def _chosen(one: dict[str, Any], query: dict[str, list[str]]) -> bool:
    name = query.get("fieldSelector", [""])[0].removeprefix("metadata.name=")
    label = query.get("labelSelector", [""])[0]
    labels = one["metadata"].get("labels") or {}
    return (not name or one["metadata"]["name"] == name) and (not label or label in labels)


@contextmanager
def serving(fake: FakeConfigMaps) -> Iterator[str]:
    """Serve the fake; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _reply(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            watches = parse_qs(urlsplit(self.path).query).get("watch") == ["True"]
            if watches and fake.fault("GET", self.path) is None:
                self._watch()
                return
            code, answer = fake.answer(self.command, self.path, body)
            self.close_connection = True
            if code == 0:  # hang up without a word
                return
            data = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(data)

        def _watch(self) -> None:
            self.close_connection = True
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.send_header("Connection", "close")
            self.end_headers()
            for event in fake.stream(self.path):
                data = json.dumps(event).encode() + b"\n"
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")

        do_GET = do_POST = do_PUT = do_DELETE = _reply

        def log_message(self, *_: Any) -> None:
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        fake.stopped = True
        server.shutdown()
        thread.join()
        server.server_close()
