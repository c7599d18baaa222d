"""Pictures behind http(s) links, by the standard library: limits for time, size and redirects, and who may be asked.

Nothing here knows a picture; `fetch` gives bytes.
"""

import base64
import contextlib
import ipaddress
import socket
import ssl
import threading
import time
import zlib
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urldefrag, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

# For a picture as a whole: names, connections, redirects, and a body that drips.
SECONDS = 20.0
BYTES = 64 * 2**20
REDIRECTS = 5

_CHUNK = 2**16
_HTTP_OK = 200
_MOVED = (301, 302, 303, 307, 308)
_PORTS = {"http": 80, "https": 443}
# What stays as it is in a path or query that was written as a person reads it, with blanks and umlauts.
_SAFE = "%/:@!$&'()*+,;=~-._?[]"
_HEADERS = {"Accept": "image/*, */*;q=0.5", "Accept-Encoding": "identity", "User-Agent": "deepseek-vl-hf"}


class LinkError(OSError):
    """A link that gave no file; the text says why."""


def fetch(url: str, private: bool = True) -> bytes:
    """What a link leads to.

    The proxies of the environment (`HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`) are used. From a public address no redirect
    leads to a private one, so that a server elsewhere cannot make this machine ask its neighbors. The address is
    checked that is connected to, whatever its name said before; behind a proxy it is the proxy that connects.

    Args:
        url: begins with http:// or https://, in small letters or capitals.
        private: whether the link itself may lead to this machine or its own network.

    Raises:
        LinkError: another status than 200, too large, too many redirects, or one that is not followed.
        OSError, http.client.HTTPException, ValueError: no answer, no such host, not HTTP, not a link.
    """
    download = _Download(url, private)
    # Neither a name's look-up nor a line of a header that drips can be given a time; a thread can be left.
    thread = threading.Thread(target=download.run, name="picture", daemon=True)
    thread.start()
    try:
        thread.join(SECONDS)
    finally:
        download.abandon()
    return download.result()


def is_private(address: str) -> bool:
    """Whether an IP address belongs to this machine, its network, or nobody: all that is not the public Internet."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        translated = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF) if found in _TRANSLATED else None
        inner = found.ipv4_mapped or found.sixtofour or translated
        if inner is not None:
            return is_private(str(inner))
    return not found.is_global or found.is_multicast


_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")  # IPv4 addresses for networks that have IPv6 alone


class _Download:
    """One link, from its first server to the bytes; runs in a thread of its own."""

    def __init__(self, url: str, private: bool) -> None:
        self._url = url
        # From the first public server on, no private one is asked.
        self._private = private
        self._end = time.monotonic() + SECONDS
        self._socket: socket.socket | None = None
        self._body: bytes | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Leaves the bytes, or what went wrong, for `result`."""
        try:
            self._body = self._follow()
        except BaseException as error:  # raised again by `result`
            self._error = error

    def result(self) -> bytes:
        """The bytes; raises what went wrong, or TimeoutError where the thread is still at it."""
        if self._body is not None:
            return self._body
        if self._error is not None and time.monotonic() < self._end:
            raise self._error
        raise TimeoutError(f"not everything arrived within {SECONDS:g} s") from self._error

    def abandon(self) -> None:
        """Wakes the thread from whatever it waits for, so that it ends."""
        if self._body is None and self._error is None:
            self._end = 0.0
            if self._socket is not None:
                with contextlib.suppress(OSError):  # closed in the meantime
                    # Not the method of an SSL socket, which first forgets how to read.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _follow(self) -> bytes:
        url = self._url
        for _ in range(REDIRECTS + 1):
            found = self._get(urlsplit(url))
            if isinstance(found, bytes):
                return found
            url = urldefrag(urljoin(url, found)).url
            if urlsplit(url).scheme not in _PORTS:
                raise LinkError(f"the server redirects to {url[:80]!r}, which is not an http(s) link")
        raise LinkError(f"the server redirects more than {REDIRECTS} times")

    def _get(self, url: SplitResult) -> bytes | str:
        """The body, or where the server redirects to."""
        if not url.hostname:
            raise LinkError("the link names no server")
        connection, target, headers = self._connection(url)
        try:
            connection.request("GET", target, headers=headers)
            self._socket = connection.sock
            response = connection.getresponse()
            location = response.getheader("Location")
            if response.status in _MOVED and location:
                return location.encode("latin-1").decode("utf-8", "replace")
            if response.status != _HTTP_OK:
                raise LinkError(f"the server answered with status {response.status} ({response.reason}), not with 200")
            return self._read(response)
        finally:
            connection.close()

    def _read(self, response: HTTPResponse) -> bytes:
        too_large = LinkError(f"the file is larger than the limit of {BYTES / 2**20:g} MB")
        if (response.length or 0) > BYTES:
            raise too_large
        body = bytearray()
        while chunk := response.read1(_CHUNK):
            body += chunk
            if len(body) > BYTES:
                raise too_large
            self._remaining()
        self._remaining()  # what `abandon` cuts off looks like a body that has come to its end
        if response.length:
            raise LinkError(f"the connection ended {response.length} bytes before the file did")
        if response.getheader("Content-Encoding", "").lower() in ("gzip", "x-gzip", "deflate"):
            unpacked = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32).decompress(bytes(body), BYTES + 1)
            if len(unpacked) > BYTES:
                raise too_large
            return unpacked
        return bytes(body)

    def _remaining(self) -> float:
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        return seconds

    def _connection(self, url: SplitResult) -> tuple[HTTPConnection, str, dict[str, str]]:
        """A connection that is opened by its first request, what to ask it for, and headers."""
        host, port = str(url.hostname), url.port or _PORTS[url.scheme]
        target = quote(url.path or "/", _SAFE) + (f"?{quote(url.query, _SAFE)}" if url.query else "")
        headers = {**_HEADERS, **_authorization("Authorization", url)}
        proxy = _proxy_of(url)
        if proxy is None:
            kind = _DirectTLS if url.scheme == "https" else _Direct
            return kind(host, port, self._dial), target, headers
        self._admit(host, _is_private_name(host))
        between = str(proxy.hostname), proxy.port or _PORTS["http"]
        authorization = _authorization("Proxy-Authorization", proxy)
        if url.scheme == "http":
            whole = f"http://{url.netloc.rpartition('@')[2]}{target}"
            return HTTPConnection(*between, timeout=self._remaining()), whole, {**headers, **authorization}
        tunnel = HTTPSConnection(*between, timeout=self._remaining(), context=ssl.create_default_context())
        tunnel.set_tunnel(host, port, authorization)
        return tunnel, target, headers

    def _dial(self, host: str, port: int) -> socket.socket:
        """Connects to the first address of a host that answers, if it may be asked."""
        failure: OSError = LinkError(f"{host} has no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            private = is_private(str(address[0]))
            self._admit(host, private)
            self._socket = socket.socket(family, kind, protocol)
            try:
                self._socket.settimeout(self._remaining())
                self._socket.connect(address)
            except OSError as error:
                self._socket.close()
                failure = error
                continue
            self._private = self._private and private
            return self._socket
        raise failure

    def _admit(self, host: str, private: bool) -> None:
        """Raises LinkError if a server may not be asked."""
        if private and not self._private:
            raise LinkError(f"{host} is an address of this machine or its network, to which this link may not lead")


class _Direct(HTTPConnection):
    """A connection without a proxy, to an address that was checked."""

    def __init__(self, host: str, port: int, dial: Any) -> None:
        super().__init__(host, port)
        self._dial = dial

    def connect(self) -> None:
        """Called by the first request."""
        self.sock = self._dial(self.host, self.port)


class _DirectTLS(_Direct):
    """The same, encrypted."""

    default_port = _PORTS["https"]

    def connect(self) -> None:
        """Called by the first request; the certificates are those that Python trusts on this machine."""
        super().connect()
        self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)


def _proxy_of(url: SplitResult) -> SplitResult | None:
    """The proxy that the environment names for a link, if any."""
    proxies = getproxies()
    found = proxies.get(url.scheme) or proxies.get("all")
    if not found or proxy_bypass(str(url.hostname)):
        return None
    proxy = urlsplit(found if "://" in found else f"http://{found}")
    if proxy.scheme != "http" or not proxy.hostname:
        raise LinkError(f"the environment names a proxy of the kind {proxy.scheme}://, of which only http:// is known")
    return proxy


def _is_private_name(host: str) -> bool:
    """Whether a host's name alone says that it is a private one; behind a proxy there is no more to go by."""
    try:
        return is_private(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _authorization(header: str, url: SplitResult) -> dict[str, str]:
    """The header for the user and the password that stand in a link."""
    if url.username is None:
        return {}
    pair = f"{unquote(url.username)}:{unquote(url.password or '')}"
    return {header: f"Basic {base64.b64encode(pair.encode()).decode()}"}
