"""A certificate authority made for this test run and forgotten after it, and contexts that use it."""

import shutil
import ssl
import subprocess
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pytest

NAMES = "DNS:pictures.test,DNS:xn--bcher-kva.test,IP:127.0.0.1"
CA_EXTENSIONS = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign", "subjectKeyIdentifier=hash")


@dataclass(frozen=True, slots=True)
class ThrowawayTls:
    """`server` shows a certificate for `NAMES`; `client` trusts who signed it, and verifies names."""

    server: ssl.SSLContext
    client: ssl.SSLContext


@lru_cache(maxsize=1)
def throwaway_tls() -> ThrowawayTls:
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command is needed to make a certificate")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _make_certificates(folder)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(folder / "leaf.pem", folder / "leaf.key")
        return ThrowawayTls(server, ssl.create_default_context(cafile=str(folder / "ca.pem")))


def _make_certificates(folder: Path) -> None:
    leaf_extensions = f"subjectAltName={NAMES}\nauthorityKeyIdentifier=keyid\nextendedKeyUsage=serverAuth\n"
    (folder / "leaf.ext").write_text(leaf_extensions)
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    added = [word for extension in CA_EXTENSIONS for word in ("-addext", extension)]
    ca = ["req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=throwaway", *added]
    request = ["req", *key, "-keyout", "leaf.key", "-out", "leaf.csr", "-subj", "/CN=pictures.test"]
    signer = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "leaf.ext", "-days", "2"]
    for arguments in (ca, request, ["x509", "-req", "-in", "leaf.csr", "-out", "leaf.pem", *signer]):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=20)
