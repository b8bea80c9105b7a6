"""A small Hugging Face Hub on 127.0.0.1: HEAD and GET of resolve URLs, with Range.

Like the real one it answers a large file's resolve URL with X-Repo-Commit, X-Linked-Size and
X-Linked-Etag (the SHA-256) and a redirect to a storage address, here of the same server. `faults`
says what goes wrong with a file.
"""

import contextlib
import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

RESOLVE = re.compile(
    r"/datasets/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[0-9a-f]{40})/(?P<name>.+)"
)


class Hub:
    """files: name -> content. faults: name -> list of what happens to its next GETs, in order.

    ("cut", n): n bytes, then the connection ends. ("stall", n): n bytes, then nothing until the
    server closes. ("spoil",): wrong bytes of the right length. An int: that status, for HEAD too,
    while it is the first in the list. requests: (method, name, Range header, Authorization header)
    of every request for content; served: bytes sent by file. tokens: Authorization headers of
    requests to the hub proper.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files, self.faults = files, {}
        self.requests: list[tuple[str, str, str | None, str | None]] = []
        self.served: dict[str, int] = {}
        self.tokens: set[str | None] = set()
        self.stalled, self.closing = threading.Event(), threading.Event()
        self.url = ""

    def gets(self, name: str) -> list[str | None]:
        """The Range headers of the GETs for a file's content."""
        return [
            wanted
            for method, asked, wanted, _ in self.requests
            if method == "GET" and asked == name
        ]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return self.server.hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        resolve = RESOLVE.fullmatch(self.path)
        name = resolve["name"] if resolve else self.path.removeprefix("/storage/")
        faults = self.hub.faults.get(name, [])
        if faults and isinstance(faults[0], int):
            return self.refuse(faults[0], {403: "GatedRepo"}.get(faults[0], ""))
        if name not in self.hub.files:
            return self.refuse(404, "EntryNotFound")
        if not resolve:
            return self.send_content(
                name, faults.pop(0) if faults and self.command == "GET" else ("whole",)
            )
        self.hub.tokens.add(self.headers.get("Authorization"))
        raw = self.hub.files[name]
        self.send_response(302)
        self.send_header("X-Repo-Commit", resolve["revision"])
        self.send_header("X-Linked-Size", str(len(raw)))
        self.send_header("X-Linked-Etag", f'"{hashlib.sha256(raw).hexdigest()}"')
        self.send_header(
            "Location", f"{self.hub.url.replace('127.0.0.1', 'localhost')}/storage/{name}"
        )
        self.send_header("Content-Length", "0")
        self.end_headers()

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send_content(self, name: str, fault: tuple) -> None:
        wanted = self.headers.get("Range")
        self.hub.requests.append((self.command, name, wanted, self.headers.get("Authorization")))
        raw = self.hub.files[name]
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
        body = bytes(len(raw) - start) if fault[0] == "spoil" else raw[start:]
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(raw) - 1}/{len(raw)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        sent = body[: fault[1]] if fault[0] in ("cut", "stall") else body
        self.hub.served[name] = self.hub.served.get(name, 0) + len(sent)
        with contextlib.suppress(OSError):  # the client was killed
            self.wfile.write(sent)
            self.wfile.flush()
        if fault[0] == "stall":
            self.hub.stalled.set()
            self.hub.closing.wait(60)
        self.close_connection = len(sent) < len(body)


@contextlib.contextmanager
def serve(files: dict[str, bytes]) -> Iterator[Hub]:
    """The server, up for as long as the `with` block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.hub = hub = Hub(files)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        hub.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def clean_environment(hub_url: str, home: Path, **extra: str) -> dict[str, str]:
    """For a process whose hub client asks `hub_url` and knows nothing of this machine's user."""
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(home),
        "HF_HOME": str(home / "hf"),
        "HF_ENDPOINT": hub_url,
        **extra,
    }
