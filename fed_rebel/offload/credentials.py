"""How device and server know each other: the server's certificate, and a token that devices bear.

Without files of the user's own both are made once for the user on this machine, beside no run, because run directories
are copied and shared: `offload/` in the platform's configuration directory, which only its owner can enter. A device
on another machine needs `certificate.pem` and `token` of there, and never `key.pem`.
"""

import datetime
import ipaddress
import os
import secrets
import shutil
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fed_rebel import files

TOKEN_VARIABLE = "FED_REBEL_OFFLOAD_TOKEN"
LIFETIME = datetime.timedelta(days=365)
SHORTEST_TOKEN = 16
"""Characters: a shorter one could be guessed."""


@dataclass(frozen=True, repr=False)
class ServerCredentials:
    """What a server shows and asks for; PEM."""

    certificate: bytes
    key: bytes
    token: str


@dataclass(frozen=True, repr=False)
class DeviceCredentials:
    """What a device trusts, PEM, and bears."""

    certificate: bytes
    token: str


def folder() -> Path:
    """Where those lie that are made on the fly."""
    return platformdirs.user_config_path("fed-rebel") / "offload"


def of_server(
    certificate: Path | None = None, key: Path | None = None, token_file: Path | None = None
) -> ServerCredentials:
    """The given files, else those of this user, which are made where they are not there yet.

    Raises `ValueError` for one of certificate and key without the other, or for a secret that others can read.
    """
    if (certificate is None) != (key is None):
        raise ValueError("--certificate and --key: give both, or neither")
    if certificate is None or token_file is None:
        make(folder())
    token = _token(token_file)
    if certificate is None or key is None:
        certificate, key = folder() / "certificate.pem", folder() / "key.pem"
        _check_current(certificate)
    return ServerCredentials(_read(certificate, "--certificate"), _read(key, "--key", secret=True), token)


def of_device(certificate: Path | None = None, token_file: Path | None = None) -> DeviceCredentials:
    """The given files, else those of this user. Raises `ValueError` where they are not there."""
    if certificate is None:
        certificate = folder() / "certificate.pem"
        if not certificate.exists():
            raise ValueError(
                f"--certificate: none at {certificate}; start fed-rebel offload server on this machine, or give the "
                "certificate of the server"
            )
        _check_current(certificate)
    return DeviceCredentials(_read(certificate, "--certificate"), _token(token_file))


def make(place: Path) -> None:
    """A certificate that signs itself, for this machine's name and loopback, its key, and a token: all or nothing.

    What is there already stays. Where two processes make them at the same time, both use those of the first.
    """
    if place.exists():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))  # of mode 700
    try:
        certificate, key = _self_signed()
        files.replace(part / "certificate.pem", certificate)
        files.replace(part / "key.pem", key, mode=0o600)
        files.replace(part / "token", secrets.token_urlsafe(32).encode(), mode=0o600)
        try:
            part.rename(place)
        except OSError:
            if not place.is_dir():
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _self_signed() -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fed-rebel offload")])
    hosts: list[x509.GeneralName] = [x509.DNSName(host) for host in dict.fromkeys(("localhost", socket.gethostname()))]
    hosts += [x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", "::1")]
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # a device's clock may be behind
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _check_current(path: Path) -> None:
    certificate = x509.load_pem_x509_certificate(_read(path, "--certificate"))
    if certificate.not_valid_after_utc < datetime.datetime.now(datetime.UTC):
        raise ValueError(
            f"{path}: ended on {certificate.not_valid_after_utc:%Y-%m-%d}; remove {path.parent}, and the server makes "
            "new ones when it starts"
        )


def _token(path: Path | None) -> str:
    """From the file, else the environment, else this user's file."""
    given = os.environ.get(TOKEN_VARIABLE)
    if path is None and given:
        token, where = given, TOKEN_VARIABLE
    else:
        path = path or folder() / "token"
        token, where = _read(path, "--token-file", secret=True).decode("ascii", "replace"), str(path)
    token = token.strip()
    if len(token) < SHORTEST_TOKEN or not (token.isascii() and token.isprintable()):
        raise ValueError(f"{where}: no token; allowed: {SHORTEST_TOKEN} printable ASCII characters or more")
    return token


def _read(path: Path, option: str, *, secret: bool = False) -> bytes:
    try:
        if secret and path.stat().st_mode & 0o077:
            raise ValueError(f"{option} {path}: others can read it; chmod 600 {path}")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{option} {path}: cannot be read ({error.strerror})") from None
