"""A certificate authority for one run: who has no certificate of it neither reads, sends nor runs anything.

Its key lives in the memory of the controller alone. A certificate says whose it is, and that is checked where
it matters: a worker takes artifacts from the controller only, whatever other host of the run answers.
"""

from __future__ import annotations

import ssl
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from kpatchlab.files import put_plain

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

CONTROLLER = "controller.kpatchlab"
"""The name in the controller's certificate."""
BEFORE = timedelta(days=2)
"""Certificates are valid since then: a host whose clock is a day behind could never connect."""
AFTER = timedelta(days=30)
"""More than any run lasts."""
CA_FILE, CERT_FILE, KEY_FILE = "ca.pem", "cert.pem", "key.pem"


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate with its key and the authority's certificate, each as PEM."""

    authority: str
    certificate: str
    key: str

    def write(self, folder: Path) -> None:
        """Write the three files into a folder that nobody else may enter; it is made."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        for name, text in ((CA_FILE, self.authority), (CERT_FILE, self.certificate), (KEY_FILE, self.key)):
            put_plain(folder / name, text.encode(), 0o600)

    @classmethod
    def read(cls, folder: Path) -> Identity:
        """Read what `write` wrote.

        Raises:
            OSError: a file is not there.
        """
        return cls(*((folder / name).read_text() for name in (CA_FILE, CERT_FILE, KEY_FILE)))

    def context(self, *, server: bool) -> ssl.SSLContext:
        """Return what a side of a connection needs; each wants the other's certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=self.authority)
        with tempfile.TemporaryDirectory(prefix="kpatchlab-tls-") as folder:  # ssl takes files alone; it has mode 0700
            self.write(Path(folder))
            context.load_cert_chain(Path(folder) / CERT_FILE, Path(folder) / KEY_FILE)
        return context


class Authority:
    """What signs the certificates of a run."""

    def __init__(self) -> None:
        self._key = _key()
        self._name = _name("kpatchlab run")
        self._own = self._signed(self._name, self._key, authority=True)

    def issue(self, name: str) -> Identity:
        """Return a certificate for a name, as a domain has it."""
        key = _key()
        certificate = self._signed(_name(name), key, host=name)
        return Identity(_pem(self._own), _pem(certificate), _pem_of_key(key))

    def _signed(
        self, subject: x509.Name, key: EllipticCurvePrivateKey, *, host: str = "", authority: bool = False
    ) -> x509.Certificate:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.x509.oid import ExtendedKeyUsageOID

        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BEFORE)
            .not_valid_after(now + AFTER)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=authority, crl_sign=authority, content_commitment=False,
            key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
            decipher_only=False,
        )  # fmt: skip
        builder = builder.add_extension(usage, critical=True)
        if not authority:
            both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]  # a Dask worker is both
            builder = builder.add_extension(x509.ExtendedKeyUsage(both), critical=False)
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _key() -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _name(text: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _pem(certificate: x509.Certificate) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM).decode()


def _pem_of_key(key: EllipticCurvePrivateKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
