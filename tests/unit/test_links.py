"""Pictures behind links: how they may be written, limits, redirects, and addresses that may not be asked."""

import base64
import contextlib
import gzip
import io
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from deepseek_vl_hf.pictures import links
from deepseek_vl_hf.pictures.opening import open_image, open_images, to_rgb
from deepseek_vl_hf.pictures.sources import link_scheme

PICTURE = Image.effect_noise((9, 7), 60).convert("RGB")
BUFFER = io.BytesIO()
PICTURE.save(BUFFER, "PNG")
DATA = BUFFER.getvalue()
BASE64 = base64.b64encode(DATA).decode()


class Handler(BaseHTTPRequestHandler):
    """Answers by the first part of the path: a status, or what it is called below."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        _, kind, *rest = self.path.split("/", 2)
        self.server.asked.append((self.server.server_address[0], self.path))
        if kind == "drip":
            self.drip()
        elif kind == "to":
            self.answer(302, b"", Location=rest[0])
        elif kind == "again":
            self.answer(302, b"", Location=self.path)
        elif kind == "page":
            self.answer(200, b"<!DOCTYPE html><title>Log in</title>")
        elif kind == "announced":
            self.answer(200, b"", **{"Content-Length": str(10**12)})
        elif kind == "short":
            self.answer(200, DATA, **{"Content-Length": str(len(DATA) + 10)})
        elif kind == "endless":
            self.answer(200, bytes(links.BYTES + 1))
        elif kind == "gzip":
            self.answer(200, gzip.compress(DATA), **{"Content-Encoding": "gzip"})
        else:
            self.answer(int(kind) if kind.isdigit() else 200, DATA)

    def answer(self, status, body, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def drip(self):
        head = b"HTTP/1.1 200 OK\r\nX: " if self.path == "/drip/head" else b"HTTP/1.1 200 OK\r\n\r\n"
        try:
            self.wfile.write(head)
            for byte in DATA:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(0.02)
        except OSError:
            pass  # the client left


@pytest.fixture
def serve():
    servers = []

    def start(address="127.0.0.1"):
        try:
            server = ThreadingHTTPServer((address, 0), Handler)
        except OSError:
            pytest.skip(f"this machine does not listen on {address}")
        server.asked = []
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return server, f"http://{address}:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("path", ["/a.png", "/gzip", "/a%20b.png", "/a b ü.png?x=1&y=ü#part", "/to//a.png"])
def test_links_that_lead_to_a_picture(serve, path):
    _, url = serve()
    for source in (url + path, f"  HTTP{url[4:]}{path}\n"):
        assert to_rgb(open_image(source)).tobytes() == PICTURE.tobytes()


@pytest.mark.parametrize("status", [201, 204, 206, 304, 403, 404, 429, 500])
def test_another_status_is_named_whatever_comes_with_it(serve, status):
    _, url = serve()
    with pytest.raises(
        ValueError, match=rf"No image could be read from .* answered with status {status} .*, not with 200"
    ):
        open_image(f"{url}/{status}/a.png")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/page", "it is a web page; link to the picture itself"),
        ("/announced", "the file is larger than the limit of 0.0[0-9]* MB"),
        ("/endless", "the file is larger than the limit of 0.0[0-9]* MB"),
        ("/again", "the server redirects more than 5 times"),
        ("/to/file:///etc/hosts", "the server redirects to 'file:///etc/hosts', which is not an http"),
        ("/to/ftp://127.0.0.1/a.png", "the server redirects to 'ftp:"),
        ("/to/data:image/png;base64,AAAA", "the server redirects to 'data:"),
    ],
)
def test_what_is_not_followed_or_not_read(serve, monkeypatch, path, message):
    monkeypatch.setattr(links, "BYTES", 2**16)
    _, url = serve()
    with pytest.raises(ValueError, match=message):
        open_image(url + path)


def test_packed_files_have_the_same_limit(serve, monkeypatch):
    packed = gzip.compress(bytes(10**5))
    monkeypatch.setattr(links, "BYTES", len(packed))
    monkeypatch.setattr(gzip, "compress", lambda data: packed)
    _, url = serve()
    with pytest.raises(ValueError, match="larger than the limit"):
        open_image(f"{url}/gzip")


@pytest.mark.parametrize("path", ["/drip", "/drip/head"])
def test_the_time_is_the_whole_time(serve, monkeypatch, path):
    monkeypatch.setattr(links, "SECONDS", 0.2)
    _, url = serve()
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"TimeoutError: 'not everything arrived within 0.2 s'"):
        open_image(url + path)
    assert time.monotonic() - start < 2
    for thread in [each for each in threading.enumerate() if each.name == "picture"]:
        thread.join(1)
        assert not thread.is_alive()  # it was woken; the body takes several seconds


def test_a_body_that_was_cut_off_is_none():
    """The thread may be woken, and be done, before anybody asks for its result."""
    download = links._Download("http://example.invalid/a.png", private=True)

    class Response:
        length = None
        parts = [DATA[:100]]

        def read1(self, _):
            if self.parts:
                return self.parts.pop()
            download.abandon()
            return b""

        def getheader(self, _, default=""):
            return default

    with pytest.raises(TimeoutError):
        download._read(Response())


def test_a_connection_that_ends_too_early(serve):
    _, url = serve()
    with pytest.raises(ValueError, match=r"the connection ended 10 bytes before the file did"):
        open_image(f"{url}/short")


def test_a_name_that_nobody_looks_up_in_time(monkeypatch):
    monkeypatch.setattr(links, "SECONDS", 0.05)
    waiting = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: waiting.wait(5) and [])
    with pytest.raises(ValueError, match="TimeoutError"):
        open_image("http://example.invalid/a.png")
    waiting.set()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_redirect_from_a_public_to_a_private_address(serve, monkeypatch, host):
    """127.0.0.2 plays the public one."""
    public, public_url = serve("127.0.0.2")
    private, private_url = serve()
    private_url = private_url.replace("127.0.0.1", host)
    monkeypatch.setattr(links, "is_private", lambda address: address != "127.0.0.2")
    assert open_image(f"{public_url}/a.png").size == PICTURE.size
    assert open_image(f"{private_url}/to/{private_url}/a.png").size == PICTURE.size
    assert open_image(f"{private_url}/to/{public_url}/a.png").size == PICTURE.size
    private.asked.clear()
    for first in ("", f"{private_url}/to/"):
        with pytest.raises(
            ValueError, match=f"{host} is an address of this machine or its network, to which this link"
        ):
            open_image(f"{first}{public_url}/to/{private_url}/secret.png")
    assert not [path for _, path in private.asked if path.startswith("/secret")]
    assert public.asked


@pytest.mark.parametrize(
    ("address", "private"),
    [
        *(
            (each, True)
            for each in ("127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "0.0.0.0")
        ),
        *(
            (each, True)
            for each in ("100.64.0.1", "224.0.0.1", "::1", "::", "fe80::1%eth0", "fd00::1", "::ffff:10.0.0.1")
        ),
        *((each, True) for each in ("64:ff9b::7f00:1", "2002:7f00:1::")),
        *((each, False) for each in ("8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808")),
    ],
)
def test_private_addresses(address, private):
    assert links.is_private(address) is private


def test_for_strangers_there_are_no_files_and_no_neighbors(serve, tmp_path):
    (tmp_path / "a.png").write_bytes(DATA)
    server, url = serve()
    path = str(tmp_path / "a.png")
    for source in (path, f"file://{path}", {"bytes": None, "path": path}, "nowhere.png", "~"):
        with pytest.raises(ValueError, match=r"is refused\. Expected an http"):
            open_images([source], local=False)
    with pytest.raises(ValueError, match=r"127.0.0.1 is an address of this machine or its network"):
        open_image(f"{url}/a.png", local=False)
    assert server.asked == []
    for source in (f"data:image/png;base64,{BASE64}", BASE64, DATA):
        assert open_image(source, local=False).size == PICTURE.size


def test_proxies_of_the_environment(serve, monkeypatch):
    server, url = serve()
    monkeypatch.setenv("http_proxy", url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert open_image("http://user:word@pictures.example/a.png").size == PICTURE.size
    assert open_image(f"{url}/b.png").size == PICTURE.size
    assert [path for _, path in server.asked] == ["http://pictures.example/a.png", "/b.png"]
    with pytest.raises(ValueError, match="localhost is an address of this machine"):
        open_image("http://localhost/a.png", local=False)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: f"file://{path}",
        lambda path: f"FILE://localhost{path}",
        lambda path: f"file:{path}",
        lambda path: Path(path).as_uri(),
        lambda path: f" {path}\n",
        lambda path: path,
        lambda path: "~/a picture 100%.png",
        lambda path: " ~/a picture 100%.png ",
        lambda path: f"data:image/png;base64,{BASE64}",
        lambda path: f"DATA:image/PNG;BASE64,{BASE64}",
        lambda path: f"data:;base64,{BASE64}",
        lambda path: f"data:application/octet-stream;charset=x;base64,{BASE64}",
        lambda path: "data:image/png;base64," + BASE64.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D"),
        lambda path: "data:image/png;base64," + BASE64.replace("+", "-").replace("/", "_").rstrip("="),
        lambda path: "data:image/png;base64,\n" + BASE64[:40] + "\r\n" + BASE64[40:] + "\n",
        lambda path: "data:image/png," + "".join(f"%{byte:02x}" for byte in DATA),
        lambda path: f"\n{BASE64}\n",
    ],
)
def test_ways_to_write_a_picture_down(tmp_path, monkeypatch, write):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    path = tmp_path / "a picture 100%.png"
    path.write_bytes(DATA)
    assert to_rgb(open_image(write(str(path)))).tobytes() == PICTURE.tobytes()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "There is no file ''"),
        (".", "'.' is a folder"),
        (Path(), "'.' is a folder"),
        (Path("http://127.0.0.1/a.png"), "There is no file"),
        ("file:///nowhere.png", "There is no file 'file:///nowhere.png'"),
        ("file://elsewhere/a.png", "names a file of the computer 'elsewhere'"),
        ("s3://bucket/a.png", "Links of the kind s3:// are not read"),
        ("data:image/png;base64", "comma before its data"),
        ("data:image/png;base64,???", "not base64 text"),
        ("http://", "the link names no server"),
        ("http://127.0.0.1:99999/a.png", "No image could be read from .*Port"),
    ],
)
def test_what_names_no_picture(source, message):
    with pytest.raises(ValueError, match=message):
        open_image(source)


@pytest.mark.parametrize(
    ("text", "scheme"),
    [
        ("HTTP://a", "http"),
        (" https://a", "https"),
        ("data:,a", "data"),
        ("file:/a", "file"),
        ("a.png", ""),
        ("s3://a", ""),
    ],
)
def test_schemes(text, scheme):
    assert link_scheme(text) == scheme
