"""Certificates made for tests: an authority, and what it has signed."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)
HOSTS = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]


@dataclass
class Certificate:
    """A certificate with its key."""

    certificate: x509.Certificate
    private: ec.EllipticCurvePrivateKey

    @classmethod
    def authority(cls, name: str = "authority") -> Self:
        return cls._make(name, None, authority=True, days=1)

    def sign(self, name: str, days: float = 1) -> "Certificate":
        """Sign a certificate that ends in so many days; a negative number makes one that has expired."""
        return self._make(name, self, authority=False, days=days)

    def write(self, directory: Path, name: str) -> tuple[Path, Path]:
        """Write the certificate and its key, each in one step, and return where."""
        cert, key = directory / f"{name}.crt", directory / f"{name}.key"
        replace(cert, self.certificate.public_bytes(Encoding.PEM))
        replace(key, self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return cert, key

    @classmethod
    def _make(cls, name: str, issuer: "Certificate | None", authority: bool, days: float) -> Self:
        private, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.certificate.subject if issuer else subject)
            .public_key(private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 10 * DAY)
            .not_valid_after(now + days * DAY)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(HOSTS), critical=False)
        )
        return cls(builder.sign(issuer.private if issuer else private, hashes.SHA256()), private)


def replace(path: Path, content: bytes) -> None:
    """Put a new file in the place of an old one, as those who renew certificates do."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(content)
    fresh.rename(path)
