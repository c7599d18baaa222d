"""A server on this machine that answers as its links say: statuses, redirects, wrong lengths, slow bodies."""

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

BIG = 70 * 2**20  # more than the largest picture that may be fetched
ENDLESS = 300 * 2**20


@cache
def picture_bytes() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 31, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def body_of(name: str) -> Iterator[bytes]:
    """The pieces of a body."""
    picture = picture_bytes()
    if name in ("big", "endless"):
        yield picture
        for _ in range((BIG if name == "big" else ENDLESS) >> 20):
            yield bytes(2**20)
        return
    whole = {
        "picture": picture,
        "cut": picture[: len(picture) // 2],
        "html": b"<!DOCTYPE html><html><body>Please log in</body></html>",
        "json": b'{"error": "gone"}',
        "text": b"no\n",
        "empty": b"",
    }
    yield whole[name]


class Handler(BaseHTTPRequestHandler):
    """Answers what the path asks for, as JSON in base64; after that many redirects."""

    def log_message(self, *_arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        wanted = json.loads(base64.urlsafe_b64decode(self.path.removeprefix("/").encode()))
        try:
            if wanted["redirects"]:
                self._redirect(wanted)
            else:
                self._answer(wanted)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # it heard enough

    def _redirect(self, wanted: dict[str, Any]) -> None:
        following = {**wanted, "redirects": wanted["redirects"] if wanted["to"] == "loop" else wanted["redirects"] - 1}
        link = path_of(following)
        there = {"absolute": f"http://127.0.0.1:{self.server.server_address[1]}{link}", "none": None}
        odd = {"file": "file:///etc/passwd", "data": "data:image/png;base64,AAAA", "ftp": "ftp://127.0.0.1/a.png"}
        self.send_response(wanted["moved"])
        location = {**there, **odd}.get(wanted["to"], link)
        if location is not None:
            self.send_header("Location", location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, wanted: dict[str, Any]) -> None:
        self.send_response(wanted["status"])
        self.send_header("Content-Type", wanted["type"])
        whole = sum(map(len, body_of(wanted["body"]))) if wanted["length"] != "none" else 0
        length = {"right": whole, "short": whole // 2, "long": whole + 100, "huge": 2**40, "none": None, "odd": "x"}
        if length[wanted["length"]] is not None:
            self.send_header("Content-Length", str(length[wanted["length"]]))
        self.end_headers()
        for piece in body_of(wanted["body"]):
            self._write(piece, wanted["pace"])
        self.close_connection = True

    def _write(self, piece: bytes, pace: str) -> None:
        if pace == "at once":
            self.wfile.write(piece)
            return
        if pace == "never":
            time.sleep(40)
            return
        step = max(1, len(piece) // 5) if pace == "slow" else 1
        for start in range(0, len(piece), step):
            self.wfile.write(piece[start : start + step])
            self.wfile.flush()
            time.sleep(0.02 if pace == "slow" else 0.5)


def path_of(wanted: dict[str, Any]) -> str:
    return "/" + base64.urlsafe_b64encode(json.dumps(wanted).encode()).decode()


@cache
def address() -> str:
    """Of the server, which is started when it is first asked for."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"127.0.0.1:{server.server_address[1]}"
