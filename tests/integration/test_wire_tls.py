"""The multiplexed connection over TLS: a small proxy in this process stands before the real engine."""

from __future__ import annotations

import asyncio
import ssl
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import pytest
from forking import told_by_child
from wire_server import ECHO, on_both_loops

from cartstore.embedded import Engine
from cartstore.errors import StoreUnavailable
from cartstore.redis.wire import Endpoint, WireCaller
from cartstore.supervisor import check_engine

# Of no use but here: a certificate for "localhost" that signs itself and is valid for a hundred years, so
# that the test needs no program and no package to make one. Made with `openssl req -x509 -newkey ec -nodes`,
# subjectAltName=DNS:localhost and keyUsage=critical,digitalSignature,keyCertSign.
_CERTIFICATE = (
    "MIIBsDCCAVWgAwIBAgIUKV3bnw4A0iJO41HKVpVsRaX0jaQwCgYIKoZIzj0EAwIwGTEXMBUGA1UEAwwOY2FydHN0b3"
    "JlIHRlc3QwIBcNMjYxMTIwMTAxMjM2WhgPMjEyNjEwMjcxMDEyMzZaMBkxFzAVBgNVBAMMDmNhcnRzdG9yZSB0ZXN0"
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEOOYHzsWi2HLr8Um80exzXG+ARu8JkQx4sDP2fb2F8oJqidAeHJeAdC"
    "R2iPpS3mXC515tmj8TcmQc/rbMU1bjx6N5MHcwHQYDVR0OBBYEFBt0dQfUamGxrlVVMy6p1z02GfAKMB8GA1UdIwQY"
    "MBaAFBt0dQfUamGxrlVVMy6p1z02GfAKMA8GA1UdEwEB/wQFMAMBAf8wFAYDVR0RBA0wC4IJbG9jYWxob3N0MA4GA1"
    "UdDwEB/wQEAwIChDAKBggqhkjOPQQDAgNJADBGAiEA/AunJZe7Kwv791eUkyZwtr5s/n13ChbohWTHKfBGMPsCIQDS"
    "Gl4lGLQh1EkuSnkVb0mD+mC4LZ/zZ0yvDg/Iqz4DRw=="
)
_KEY = (
    "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgVAVqeQfmp58DEcEYKlzfKHvjNH60dbf+7LYu5F3YL6"
    "mhRANCAAQ45gfOxaLYcuvxSbzR7HNcb4BG7wmRDHiwM/Z9vYXygmqJ0B4cl4B0JHaI+lLeZcLnXm2aPxNyZBz+tsxT"
    "VuPH"
)


def _pem(kind: str, text: str) -> str:
    return "\n".join([f"-----BEGIN {kind}-----", *textwrap.wrap(text, 64), f"-----END {kind}-----", ""])


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    file = tmp_path / "certificate.pem"
    file.write_text(_pem("CERTIFICATE", _CERTIFICATE))
    return file


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "key.pem"
    file.write_text(_pem("PRIVATE KEY", _KEY))
    return file


@asynccontextmanager
async def proxy(engine_url: str, certificate: Path, key: Path) -> AsyncIterator[int]:
    """A TLS server before the engine's unix socket; gives its port."""
    endpoint = Endpoint.from_url(engine_url)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    tasks: set[asyncio.Task[None]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, RuntimeError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        engine_reader, engine_writer = await asyncio.open_unix_connection(endpoint.path)
        try:
            await asyncio.gather(copy(reader, engine_writer), copy(engine_reader, writer))
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        if tasks:
            await asyncio.wait(list(tasks))


def url_of(engine: Engine, port: int, host: str, options: str) -> str:
    password = quote(Endpoint.from_url(engine.url()).password, safe="")
    return f"rediss://:{password}@{host}:{port}/0?{options}"


@on_both_loops
@pytest.mark.parametrize("options", ["ssl_ca_certs={certificate}", "ssl_cert_reqs=none"])
async def test_call_is_answered_over_tls(
    engine: Engine, redis_url: str, certificate: Path, key: Path, options: str
) -> None:
    async with proxy(redis_url, certificate, key) as port:
        url = url_of(engine, port, "localhost", options.format(certificate=certificate))
        async with WireCaller.open(url) as caller:
            large = "käse" * 100_000
            calls = [caller.call(ECHO, ("gate",), (f"{n} {large}",)) for n in range(20)]
            replies = await asyncio.gather(*calls)

            assert [reply[2] for reply in replies] == [f"{n} {large}" for n in range(20)]


async def test_check_says_what_to_name_when_nobody_vouches_for_the_certificate(
    engine: Engine, redis_url: str, certificate: Path, key: Path
) -> None:
    async with proxy(redis_url, certificate, key) as port:
        with pytest.raises(StoreUnavailable) as caught:
            await asyncio.to_thread(check_engine, url_of(engine, port, "localhost", ""))

    assert caught.value.message == "The engine cannot be reached; the change was not applied."
    assert f"rediss://localhost:{port}/0 cannot be reached: its TLS cert" in caught.value.for_operators
    assert "named by ?ssl_ca_certs=" in caught.value.for_operators


@on_both_loops
async def test_child_disturbs_no_connection_over_tls(
    engine: Engine, redis_url: str, certificate: Path, key: Path
) -> None:
    async with proxy(redis_url, certificate, key) as port:
        url = url_of(engine, port, "localhost", f"ssl_ca_certs={certificate}")
        async with WireCaller.open(url) as caller:
            await caller.call(ECHO, ("gate",), (1,))
            connection = caller._connection
            assert connection is not None

            def harm() -> str:
                # The notice of the end of the stream, of a protocol whose state the parent has as well.
                connection._transport.write(b"QUIT")
                connection._transport.close()
                return "done"

            assert told_by_child(harm) == "done"

            assert (await caller.call(ECHO, ("gate",), (2,)))[2] == "2"
            assert caller._connection is connection


@on_both_loops
@pytest.mark.parametrize(
    ("host", "options"),
    [
        # Nobody vouches for the certificate; and the certificate is for another name.
        ("localhost", ""),
        ("127.0.0.1", "ssl_ca_certs={certificate}"),
    ],
)
async def test_nothing_is_sent_when_the_engine_cannot_prove_who_it_is(
    engine: Engine, redis_url: str, certificate: Path, key: Path, host: str, options: str
) -> None:
    async with proxy(redis_url, certificate, key) as port:
        url = url_of(engine, port, host, options.format(certificate=certificate))
        async with WireCaller.open(url, wait_seconds=0.2) as caller:
            with pytest.raises(StoreUnavailable) as caught:
                await caller.call(ECHO, ("gate",), (1,))

            assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)


@on_both_loops
async def test_call_is_answered_when_only_the_name_is_not_checked(
    engine: Engine, redis_url: str, certificate: Path, key: Path
) -> None:
    async with proxy(redis_url, certificate, key) as port:
        url = url_of(engine, port, "127.0.0.1", f"ssl_ca_certs={certificate}&ssl_check_hostname=no")
        async with WireCaller.open(url) as caller:
            assert (await caller.call(ECHO, ("gate",), (1,)))[2] == "1"
