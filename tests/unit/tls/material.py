"""What an operator may bring: certificates of another authority, with any fault; and a small server to show them."""

import asyncio
import contextlib
import datetime
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtensionOID, NameOID

from muster.tls.names import general_name

NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
DAY = datetime.timedelta(days=1)

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


class Operator:
    """An authority that is not ours, and the two files that it fills."""

    def __init__(self, folder: Path) -> None:
        self.certificate = folder / "cert.pem"
        self.key = folder / "key.pem"
        self.ca = folder / "ca.pem"
        self._key = ec_key()
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Operator CA")])
        self.own = self._sign(self._name, self._key.public_key(), (), NOW - DAY, NOW + 400 * DAY, is_ca=True)
        self.ca.write_bytes(pem(self.own))

    def signed(
        self,
        key: Key,
        *names: str,
        begins: datetime.datetime = NOW - DAY,
        ends: datetime.datetime = NOW + 90 * DAY,
    ) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
        return self._sign(name, key.public_key(), names or ("127.0.0.1",), begins, ends, is_ca=False)

    def install(self, *chain: x509.Certificate, key: Key, mode: int = 0o600, password: bytes | None = None) -> None:
        """Replace both files as certbot does: each by a new one."""
        for path, content in (
            (self.certificate, b"".join(map(pem, chain))),
            (self.key, key_pem(key, password)),
        ):
            draft = path.with_suffix(".new")
            draft.write_bytes(content)
            draft.chmod(mode)
            draft.replace(path)

    def renew(self, key: Key | None = None, **changes: datetime.datetime) -> x509.Certificate:
        key = key or ec_key()
        made = self.signed(key, **changes)
        self.install(made, key=key)
        return made

    def unreadable(self, key: Key) -> x509.Certificate:
        """Return one whose names are garbage, which shows only when somebody looks at them."""
        return self._sign(self._name, key.public_key(), (), NOW - DAY, NOW + DAY, is_ca=False, garbage=b"\x30\x05x")

    def _sign(
        self,
        subject: x509.Name,
        public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
        names: tuple[str, ...],
        begins: datetime.datetime,
        ends: datetime.datetime,
        *,
        is_ca: bool,
        garbage: bytes = b"",
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([general_name(name) for name in names]), critical=False
            )
        if garbage:
            names_of = x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, garbage)
            builder = builder.add_extension(names_of, critical=False)
        return builder.sign(self._key, hashes.SHA256())


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key: Key, password: bytes | None = None) -> bytes:
    encryption: serialization.KeySerializationEncryption = (
        serialization.NoEncryption() if password is None else serialization.BestAvailableEncryption(password)
    )
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


@contextlib.asynccontextmanager
async def echoing(context: ssl.SSLContext, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """Serve TLS on loopback: every line comes back. Yields the port."""
    writers = set()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while line := await reader.readline():
                writer.write(line)
                await writer.drain()
        writer.close()
        writers.discard(writer)

    server = await asyncio.start_server(echo, host, 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in tuple(writers):
            writer.transport.abort()
        while writers:  # noqa: ASYNC110 until their tasks have noticed
            await asyncio.sleep(0)


def trusting(ca: Path, *, is_strict: bool = True) -> ssl.SSLContext:
    """Return a client's context that knows one authority only, as strict as Python 3.13's default."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if is_strict:
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(ca)
    return context


class Talk:
    """A client's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        seen = writer.get_extra_info("ssl_object")
        self.certificate = x509.load_der_x509_certificate(seen.getpeercert(binary_form=True))
        self.version = seen.version()
        self.protocol = seen.selected_alpn_protocol()

    async def echoes(self, line: bytes = b"hello\n") -> bool:
        self._writer.write(line)
        return await self._reader.readline() == line


@contextlib.asynccontextmanager
async def connected(
    port: int, context: ssl.SSLContext, *, name: str = "127.0.0.1", host: str = "127.0.0.1"
) -> AsyncIterator[Talk]:
    reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
    try:
        yield Talk(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()
