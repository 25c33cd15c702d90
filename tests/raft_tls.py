"""Certificates and contexts for masters' connections, made by the product's own authority."""

import os
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from orca_common.real import real_env
from orca_master.cluster.pki import (
    Signer,
    create_authority,
    issue_master,
    issue_worker,
    open_authority,
)
from orca_master.identity.wrapping.keyring import Keyring, WrappingKey

CLUSTER = "c1"


def an_authority(cluster_id: str = CLUSTER) -> Signer:
    env, kek = real_env(threads=1), WrappingKey(os.urandom(32))
    made = create_authority(env, cluster_id, kek)
    return open_authority(made, cluster_id, Keyring(env, [kek.raw]))


def master_files(signer: Signer, node: str, folder: Path) -> tuple[str, str]:
    """Paths of (certificate with key, the authority's certificate)."""
    certificate, key = issue_master(real_env(threads=1), signer, node)
    return _write(folder, node, certificate + key, signer)


def worker_files(signer: Signer, node: str, folder: Path) -> tuple[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder(x509.Name([])).sign(key, hashes.SHA256())
    certificate = issue_worker(real_env(threads=1), signer, request, node)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return _write(folder, f"worker-{node}", certificate + pem, signer)


def server_context(own: str, authority: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    return _filled(context, own, authority)


def client_context(own: str | None, authority: str) -> ssl.SSLContext:
    return _filled(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), own, authority)


def _filled(context: ssl.SSLContext, own: str | None, authority: str) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if own is not None:
        context.load_cert_chain(own)
    context.load_verify_locations(authority)
    return context


def _write(folder: Path, name: str, pem: bytes, signer: Signer) -> tuple[str, str]:
    own, authority = folder / f"{name}.pem", folder / f"{name}.authority.pem"
    own.write_bytes(pem)
    authority.write_bytes(signer.pem)
    return str(own), str(authority)
