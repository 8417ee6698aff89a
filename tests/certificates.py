"""A certificate authority for tests, and the certificates that it signs, made by openssl."""

import subprocess
from pathlib import Path

_DAYS = "3650"
_EXTENSIONS = "basicConstraints=critical,CA:FALSE\nsubjectAltName={names}\n"


class Authority:
    """One authority whose files lie in `folder`: `ca` is the PEM file that trusts what it signs."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.ca = folder / "ca.pem"
        self._key = _key(folder / "ca.key")
        _openssl("req", "-x509", "-key", self._key, "-out", self.ca, "-days", _DAYS, "-subj", "/CN=tests")

    def signed(self, name: str, names: str, password: str | None = None) -> tuple[Path, Path]:
        """Certificate and key, PEM files. names: such as "DNS:localhost,IP:127.0.0.1"."""
        certificate, request = self._folder / f"{name}.pem", self._folder / f"{name}.csr"
        key = _key(self._folder / f"{name}.key")
        extensions = self._folder / f"{name}.ext"
        extensions.write_text(_EXTENSIONS.format(names=names))
        _openssl("req", "-new", "-key", key, "-out", request, "-subj", f"/CN={name}")
        signer = ("-CA", self.ca, "-CAkey", self._key, "-CAcreateserial", "-days", _DAYS)
        _openssl("x509", "-req", "-in", request, "-out", certificate, *signer, "-extfile", extensions)
        if password is not None:
            locked = self._folder / f"{name}.locked.key"
            _openssl("pkcs8", "-topk8", "-in", key, "-out", locked, "-passout", f"pass:{password}")
            key = locked
        return certificate, key


def _key(path: Path) -> Path:
    _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path)
    return path


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
