"""An AMD processor in Python that makes SEV-SNP reports, written from the table of the specification.

It shares no code with `blindbuild.formats`: a report is bytes at offsets. It signs whatever a test asks for.
"""

from __future__ import annotations

import functools
import hashlib
import json
import struct
from dataclasses import dataclass, field, replace

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.fakes.authorities import Authority, make_root

SIZE, SIGNED = 0x4A0, 0x2A0
MEASUREMENT = hashlib.sha384(b"a launch").digest()
CHIP = hashlib.sha512(b"a chip").digest()
VCEK, VLEK = 0, 1
_AMD = "1.3.6.1.4.1.3704.1"
# 0x00 of each field, and how it is packed (SEV-SNP ABI, table ATTESTATION_REPORT)
FIELDS = {
    "version": (0x00, "<I"),
    "guest_svn": (0x04, "<I"),
    "policy": (0x08, "<Q"),
    "vmpl": (0x30, "<I"),
    "signature_algorithm": (0x34, "<I"),
    "current_tcb": (0x38, "8s"),
    "platform_info": (0x40, "<Q"),
    "key_info": (0x48, "<I"),
    "report_data": (0x50, "64s"),
    "measurement": (0x90, "48s"),
    "author_key_digest": (0x110, "48s"),
    "reported_tcb": (0x180, "8s"),
    "cpu": (0x188, "3s"),
    "chip_id": (0x1A0, "64s"),
    "committed_tcb": (0x1E0, "8s"),
    "launch_tcb": (0x1F0, "8s"),
    "mitigations": (0x1F8, "16s"),
}


@dataclass(frozen=True)
class Versions:
    """A TCB: the numbers, and their bytes in the layouts before Turin and since."""

    bootloader: int = 4
    tee: int = 1
    snp: int = 24
    microcode: int = 219
    fmc: int | None = None

    def packed(self) -> bytes:
        if self.fmc is None:
            return bytes((self.bootloader, self.tee, 0, 0, 0, 0, self.snp, self.microcode))
        return bytes((self.fmc, self.bootloader, self.tee, self.snp, 0, 0, 0, self.microcode))


def integer(value: int) -> bytes:
    return b"\x02\x01" + bytes((value,)) if value < 128 else b"\x02\x02\0" + bytes((value,))


def endorsement_extensions(
    *, product: str = "Milan-B1", versions: Versions = Versions(), chip: bytes | None = CHIP
) -> list[tuple[str, bytes]]:
    """The extensions of a VCEK's certificate, or of a VLEK's where there is no chip."""
    values = {"3.1": versions.bootloader, "3.2": versions.tee, "3.3": versions.snp, "3.8": versions.microcode}
    if versions.fmc is not None:
        values["3.9"] = versions.fmc
    values |= {"1": int(versions.fmc is not None), "3.4": 0, "3.5": 0, "3.6": 0, "3.7": 0}
    extensions = [(f"{_AMD}.{arc}", integer(value)) for arc, value in values.items()]
    extensions.append((f"{_AMD}.2", b"\x16" + bytes((len(product),)) + product.encode()))
    last = (f"{_AMD}.5", b"\x16\x03abc") if chip is None else (f"{_AMD}.4", chip)
    return [*extensions, last]


@dataclass(frozen=True)
class Maker:
    """One product line's authorities, as AMD has them."""

    root: Authority
    issuer: Authority
    loaded_issuer: Authority


def maker(product: str = "Milan") -> Maker:
    """The product line's authorities, the same ones every time."""
    return _make(product)


@functools.cache
def _make(product: str) -> Maker:
    root = make_root(f"ARK-{product}", rsa.generate_private_key(65537, 2048), hashes.SHA384())
    return Maker(root, root.below(f"SEV-{product}"), root.below(f"SEV-VLEK-{product}"))


@functools.cache
def chip_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


@dataclass(frozen=True)
class SnpMachine:
    """A processor and the guest on it; the defaults are an honest Milan with version 3."""

    product: str = "Milan"
    version: int = 3
    cpu: bytes = b"\x19\x01\x01"
    versions: Versions = Versions()
    chip: bytes = CHIP
    loaded: bool = False
    fields: dict = field(default_factory=dict)

    def but(self, **changes) -> SnpMachine:
        return replace(self, **changes)

    def report(self, report_data: bytes = bytes(64), **fields) -> bytes:
        """A signed report; named fields are other than an honest one's."""
        tcb = self.versions.packed()
        values = {
            "version": self.version,
            "policy": 0x20000,
            "signature_algorithm": 1,
            "platform_info": 0x21 if self.version >= 3 else 1,
            "key_info": (VLEK if self.loaded else VCEK) << 2,
            "report_data": report_data,
            "measurement": MEASUREMENT,
            "cpu": self.cpu if self.version >= 3 else bytes(3),
            "chip_id": bytes(64) if self.loaded else self.chip.ljust(64, b"\0"),
            **dict.fromkeys(("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb"), tcb),
        }
        data = bytearray(SIZE)
        for name, value in (values | self.fields | fields).items():
            offset, form = FIELDS[name]
            struct.pack_into(form, data, offset, value)
        return sign_report(bytes(data))

    def certificate(self, **changes) -> bytes:
        authority = maker(self.product).loaded_issuer if self.loaded else maker(self.product).issuer
        content = {
            "product": self.product,
            "versions": self.versions,
            "chip": None if self.loaded else self.chip,
        }
        name = "SEV-VLEK" if self.loaded else "SEV-VCEK"
        return authority.issue(name, chip_key().public_key(), endorsement_extensions(**content | changes))


def sign_report(data: bytes) -> bytes:
    """The same report with the chip's signature over its first 0x2A0 bytes."""
    r, s = decode_dss_signature(chip_key().sign(data[:SIGNED], ec.ECDSA(hashes.SHA384())))
    numbers = r.to_bytes(72, "little") + s.to_bytes(72, "little")
    return data[:SIGNED] + numbers.ljust(SIZE - SIGNED, b"\0")


def snp_product(product: str = "Milan", *, minimum: dict | None = None, **changes) -> dict:
    """What a roots file says about one product line."""
    lowest = {"bootloader": 4, "tee": 1, "snp": 24, "microcode": 219}
    return {
        "name": product,
        "root": maker(product).root.pem,
        "vcekIssuer": maker(product).issuer.pem,
        "vlekIssuer": maker(product).loaded_issuer.pem,
        "minimumTcb": minimum or lowest | ({"fmc": 1} if product == "Turin" else {}),
    } | changes


def roots_file(**parts) -> bytes:
    return json.dumps({"version": 1, **parts}).encode()
