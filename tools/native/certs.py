"""A certificate authority in a folder, and kubeconfigs for the identities it vouches for. Keys never leave the folder."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from native.errors import run

DAYS = "365"
_EC = ("ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


@dataclass(frozen=True)
class Identity:
    """Files of a certificate and its key."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """A CA in `directory`: ca.crt and ca.key; what it issues lies beside them."""

    directory: Path

    @property
    def certificate(self) -> Path:
        return self.directory / "ca.crt"

    @property
    def key(self) -> Path:
        return self.directory / "ca.key"

    def issue(self, name: str, subject: str, names: Sequence[str] = ()) -> Identity:
        """A certificate for server and client use; names are like DNS:localhost or IP:127.0.0.1."""
        identity = Identity(self.directory / f"{name}.crt", self.directory / f"{name}.key")
        extensions = self.directory / f"{name}.ext"
        alternative = ",".join(names) or f"DNS:{name}"
        extensions.write_text(f"subjectAltName={alternative}\nextendedKeyUsage=serverAuth,clientAuth\n")
        request = run(
            ["openssl", "req", "-newkey", *_EC, "-nodes", "-keyout", str(identity.key), "-subj", subject],
            what=f"certificate request for {name}",
        )
        serial = f"0x{secrets.token_hex(16)}"
        outcome = ("-set_serial", serial, "-extfile", str(extensions), "-out", str(identity.certificate))
        run(
            ["openssl", "x509", "-req", "-CA", str(self.certificate), "-CAkey", str(self.key), "-days", DAYS, *outcome],
            stdin=request.encode(),
            what=f"certificate for {name}",
        )
        return identity


def create_authority(directory: Path) -> Authority:
    """Makes the folder (readable by its owner only) and a self-signed CA in it."""
    directory.mkdir(parents=True, mode=0o700)
    authority = Authority(directory)
    files = ("-keyout", str(authority.key), "-out", str(authority.certificate))
    run(
        ["openssl", "req", "-x509", "-newkey", *_EC, "-nodes", "-subj", "/CN=deepseekjob-ca", "-days", DAYS, *files],
        what="certificate authority",
    )
    return authority


def create_signing_key(directory: Path) -> Identity:
    """The key pair of service account tokens; `certificate` is the public key."""
    pair = Identity(directory / "service-accounts.pub", directory / "service-accounts.key")
    run(["openssl", "genpkey", "-algorithm", *_EC, "-out", str(pair.key)], what="service account key")
    run(["openssl", "pkey", "-in", str(pair.key), "-pubout", "-out", str(pair.certificate)], what="service account key")
    return pair


def write_kubeconfig(path: Path, server: str, authority: Authority, identity: Identity) -> Path:
    """A self-contained kubeconfig (JSON, which is YAML) with mode 0600."""
    cluster = {"server": server, "certificate-authority-data": _encoded(authority.certificate)}
    user = {
        "client-certificate-data": _encoded(identity.certificate),
        "client-key-data": _encoded(identity.key),
    }
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "native", "cluster": cluster}],
        "users": [{"name": "native", "user": user}],
        "contexts": [{"name": "native", "context": {"cluster": "native", "user": "native"}}],
        "current-context": "native",
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(content, indent=1))
    return path


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
