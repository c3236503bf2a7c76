"""Requests as bytes that servers have got wrong: each with what a right server does.

Behind each the test sends `BEHIND`. A row says how the bytes before are answered, and whether `BEHIND` is: where the
end of a request is in doubt, it never may be. `TOKENIZE` is a route that reads its body; `OK_BODY` is a good one.
"""

from dataclasses import dataclass

BEHIND = b"GET /behind HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
"""Answered with 404."""
OK_BODY = b'{"prompt":"hi"}'
_LIVE = b"GET /health/live HTTP/1.1\r\n"
_TOKENIZE = b"POST /tokenize HTTP/1.1\r\nhost: x\r\n"
_CHUNKED = _TOKENIZE + b"transfer-encoding: chunked\r\n"
_CHUNKED_BODY = b"f\r\n" + OK_BODY + b"\r\n0\r\n\r\n"
_LENGTH = b"content-length: 15\r\n"


@dataclass(frozen=True, slots=True)
class RawRequest:
    """One row."""

    name: str
    data: bytes
    statuses: tuple[int, ...]
    """Of the answers, in order."""
    is_followed: bool = False
    """`BEHIND` is answered too, with 404; else the connection is closed before."""


def _bad(name: str, data: bytes, status: int = 400) -> RawRequest:
    return RawRequest(name, data, (status,))


def _good(name: str, data: bytes, *statuses: int) -> RawRequest:
    return RawRequest(name, data, statuses or (200,), is_followed=True)


def _host(host: bytes) -> bytes:
    return _LIVE + b"host: " + host + b"\r\n\r\n"


CORPUS = [
    # --- what must work ---
    _good("plain", _LIVE + b"host: x\r\n\r\n"),
    _good("body by length", _TOKENIZE + _LENGTH + b"\r\n" + OK_BODY),
    _good("body in chunks", _CHUNKED + b"\r\n" + _CHUNKED_BODY),
    _good("chunk extension", _CHUNKED + b"\r\nf;a=b\r\n" + OK_BODY + b"\r\n0;c\r\n\r\n"),
    _good("trailers", _CHUNKED + b"\r\nf\r\n" + OK_BODY + b"\r\n0\r\nx-sum: 1\r\n\r\n"),
    _good("chunk size with zeros and capitals", _CHUNKED + b"\r\n000F\r\n" + OK_BODY + b"\r\n000\r\n\r\n"),
    _good("coding in capitals", _TOKENIZE + b"Transfer-Encoding: Chunked\r\n\r\n" + _CHUNKED_BODY),
    _good("blank lines before", b"\r\n\r\n" + _LIVE + b"host: x\r\n\r\n"),
    _good("two requests at once", (_LIVE + b"host: x\r\n\r\n") * 2, 200, 200),
    _good("ten requests at once", (_LIVE + b"host: x\r\n\r\n") * 10, *[200] * 10),
    _good("body behind a request without one", _LIVE + b"host: x\r\ncontent-length: 4\r\n\r\nGET "),
    _good("absolute target", b"GET http://x/health/live HTTP/1.1\r\nhost: x\r\n\r\n"),
    _good("expect 100", _TOKENIZE + _LENGTH + b"expect: 100-continue\r\n\r\n" + OK_BODY, 100, 200),
    _good("unknown method", b"PROPFIND /health/live HTTP/1.1\r\nhost: x\r\n\r\n", 405),
    _good("empty header", _LIVE + b"host: x\r\nx-empty:\r\n\r\n"),
    _good("bytes above ASCII in a header", _LIVE + b"host: x\r\nx-name: \xff\xfe\r\n\r\n"),
    _good("percent-encoded NUL and line end", b"GET /%00%0d%0aX:%20y HTTP/1.1\r\nhost: x\r\n\r\n", 404),
    _good("dots in a path are a name", b"GET /v1/../health/live HTTP/1.1\r\nhost: x\r\n\r\n", 404),
    # --- what must end with the connection ---
    RawRequest("HTTP/1.0", b"GET /health/live HTTP/1.0\r\n\r\n", (200,)),
    RawRequest("close", _LIVE + b"host: x\r\nconnection: close\r\n\r\n", (200,)),
    RawRequest("upgrade to h2c", _LIVE + b"host: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n", (200,)),
    RawRequest("upgrade to WebSocket", _LIVE + b"host: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n", (200,)),
    RawRequest("another protocol's name", b"GET /health/live RTSP/1.0\r\nhost: x\r\n\r\n", (200,)),
    # --- where a body ends ---
    _bad("length and chunks", _CHUNKED + _LENGTH + b"\r\n" + _CHUNKED_BODY),
    _bad("chunks and length", _TOKENIZE + _LENGTH + b"transfer-encoding: chunked\r\n\r\n" + _CHUNKED_BODY),
    _bad("two lengths", _TOKENIZE + _LENGTH + b"content-length: 16\r\n\r\n" + OK_BODY),
    _bad("the same length twice", _TOKENIZE + _LENGTH + _LENGTH + b"\r\n" + OK_BODY),
    _bad("lengths in a list", _TOKENIZE + b"content-length: 15, 15\r\n\r\n" + OK_BODY),
    _bad("negative length", _TOKENIZE + b"content-length: -1\r\n\r\n" + OK_BODY),
    _bad("length with a sign", _TOKENIZE + b"content-length: +15\r\n\r\n" + OK_BODY),
    _bad("hexadecimal length", _TOKENIZE + b"content-length: 0xf\r\n\r\n" + OK_BODY),
    _bad("length with a space inside", _TOKENIZE + b"content-length: 1 5\r\n\r\n" + OK_BODY),
    _bad("empty length", _TOKENIZE + b"content-length:\r\n\r\n" + OK_BODY),
    _bad("length above 64 bits", _TOKENIZE + b"content-length: 18446744073709551617\r\n\r\n" + OK_BODY),
    _bad("coding that is not chunked", _TOKENIZE + b"transfer-encoding: gzip\r\n\r\n" + OK_BODY),
    _bad("coding behind chunked", _TOKENIZE + b"transfer-encoding: chunked, gzip\r\n\r\n" + _CHUNKED_BODY),
    _bad("identity", _TOKENIZE + b"transfer-encoding: identity\r\n\r\n" + OK_BODY),
    _bad("coding almost chunked", _TOKENIZE + b"transfer-encoding: xchunked\r\n\r\n" + _CHUNKED_BODY),
    _bad("coding with a vertical tab", _TOKENIZE + b"transfer-encoding: \x0bchunked\r\n\r\n" + _CHUNKED_BODY),
    _bad("chunked twice", _CHUNKED + b"transfer-encoding: chunked\r\n\r\n" + _CHUNKED_BODY),
    _bad("chunked, then another coding", _CHUNKED + b"transfer-encoding: identity\r\n\r\n" + _CHUNKED_BODY),
    _bad("another coding before chunked", _TOKENIZE + b"transfer-encoding: gzip, chunked\r\n\r\n" + _CHUNKED_BODY),
    _bad("chunks in HTTP/1.0", b"POST /tokenize HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n" + _CHUNKED_BODY),
    _bad("chunk size that is no number", _CHUNKED + b"\r\nxyz\r\n" + OK_BODY + b"\r\n0\r\n\r\n"),
    _bad("chunk size with 0x", _CHUNKED + b"\r\n0xf\r\n" + OK_BODY + b"\r\n0\r\n\r\n"),
    _bad("negative chunk size", _CHUNKED + b"\r\n-f\r\n" + OK_BODY + b"\r\n0\r\n\r\n"),
    _bad("chunk size above 64 bits", _CHUNKED + b"\r\n1000000000000000f\r\n" + OK_BODY + b"\r\n0\r\n\r\n"),
    _bad("space behind a chunk size", _CHUNKED + b"\r\nf \r\n" + OK_BODY + b"\r\n0\r\n\r\n"),
    _bad("empty chunk size", _CHUNKED + b"\r\n\r\n" + OK_BODY + b"\r\n0\r\n\r\n"),
    _bad("chunk longer than its size", _CHUNKED + b"\r\ne\r\n" + OK_BODY + b"\r\n0\r\n\r\n"),
    _bad("bare LF behind a chunk size", _CHUNKED + b"\r\nf\n" + OK_BODY + b"\r\n0\r\n\r\n"),
    _bad("bare LF behind a chunk", _CHUNKED + b"\r\nf\r\n" + OK_BODY + b"\n0\r\n\r\n"),
    _bad("bare LF in a chunk extension", _CHUNKED + b"\r\nf;a\n" + OK_BODY + b"\r\n0\r\n\r\n"),
    _bad("bare CR behind a chunk", _CHUNKED + b"\r\nf\r\n" + OK_BODY + b"\rx0\r\n\r\n"),
    # --- lines and names ---
    _bad("space before the colon", _TOKENIZE + b"content-length : 15\r\n\r\n" + OK_BODY),
    _bad("tab before the colon", _TOKENIZE + b"transfer-encoding\t: chunked\r\n\r\n" + _CHUNKED_BODY),
    _bad("space before a name", _LIVE + b" host: x\r\n\r\n"),
    _bad("folded header", _LIVE + b"host: x\r\nx-a: b\r\n c\r\n\r\n"),
    _bad("header without a colon", _LIVE + b"host: x\r\nx-a\r\n\r\n"),
    _bad("empty name", _LIVE + b"host: x\r\n: b\r\n\r\n"),
    _bad("NUL in a header", _LIVE + b"host: x\r\nx-a: b\x00c\r\n\r\n"),
    _bad("NUL in a name", _LIVE + b"host: x\r\nx\x00a: b\r\n\r\n"),
    _bad("bare CR in a header", _LIVE + b"host: x\r\nx-a: b\rc\r\n\r\n"),
    _bad("bare LF at the end of a header", _LIVE + b"host: x\r\nx-a: b\nx-c: d\r\n\r\n"),
    _bad("bare LF at the end of the head", _LIVE + b"host: x\r\n\n"),
    _bad("bare LF at the end of the first line", b"GET /health/live HTTP/1.1\nhost: x\r\n\r\n"),
    _bad("bytes above ASCII in a name", _LIVE + b"host: x\r\nx-\xffa: b\r\n\r\n"),
    # --- the first line ---
    _bad("HTTP/0.9", b"GET /health/live\r\n\r\n"),
    _bad("HTTP/0.9 by number", b"GET /health/live HTTP/0.9\r\nhost: x\r\n\r\n"),
    _bad("HTTP/1.2", b"GET /health/live HTTP/1.2\r\nhost: x\r\n\r\n"),
    _bad("HTTP/2.0", b"GET /health/live HTTP/2.0\r\nhost: x\r\n\r\n"),
    _bad("preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    _bad("junk before", b"\x00\x01junk\r\n" + _LIVE + b"host: x\r\n\r\n"),
    _bad("spaces before", b"  " + _LIVE + b"host: x\r\n\r\n"),
    _bad("no path", b"GET  HTTP/1.1\r\nhost: x\r\n\r\n"),
    _bad("space in a path", b"GET /health /live HTTP/1.1\r\nhost: x\r\n\r\n"),
    _bad("NUL in a path", b"GET /health\x00 HTTP/1.1\r\nhost: x\r\n\r\n"),
    _bad("bytes above ASCII in a path", b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n"),
    _bad("path without a slash", b"GET health/live HTTP/1.1\r\nhost: x\r\n\r\n"),
    _bad("method in small letters", b"get /health/live HTTP/1.1\r\nhost: x\r\n\r\n"),
    _bad("method that is none", b"GETX /health/live HTTP/1.1\r\nhost: x\r\n\r\n"),
    _bad("tunnel", b"CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\n"),
    _bad("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n" * 20),
    # --- the Host header ---
    _bad("no host", _LIVE + b"\r\n"),
    _bad("two hosts", _LIVE + b"host: x\r\nhost: x\r\n\r\n"),
    _bad("host with a path", _host(b"a/health/live?")),
    _bad("host with a user", _host(b"user@x")),
    _bad("host in a list", _host(b"x, y")),
    _bad("host with a space", _host(b"x y")),
    _bad("host with a fragment", _host(b"x#y")),
    _bad("host above ASCII", _host("bücher".encode())),
    _bad("host with two ports", _host(b"x:80:80")),
    _bad("host without a name", _host(b":80")),
    _bad("name that anyone can register", _host(b"rebound.example.com"), 403),
    _good("address of IPv6 with a port", _host(b"[::1]:8000")),
    _good("address", _host(b"127.0.0.1:8000")),
    _good("space behind a host", _host(b"127.0.0.1:8000 \t")),
    # --- limits ---
    _bad("target above 8 KiB", b"GET /" + b"a" * 8192 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 431),
    _bad("1,000 headers", _LIVE + b"host: x\r\n" + b"x-a: b\r\n" * 1000 + b"\r\n", 431),
    _bad("header of 1 MiB", _LIVE + b"host: x\r\nx-a: " + b"a" * 2**20 + b"\r\n\r\n", 431),
    _bad("declared body of 5 MiB", _TOKENIZE + b"content-length: 5242880\r\n\r\n" + b" " * 1000, 413),
    _bad("65,537 chunks", _CHUNKED + b"\r\n" + b"1\r\n \r\n" * 65_537 + b"0\r\n\r\n", 413),
]
