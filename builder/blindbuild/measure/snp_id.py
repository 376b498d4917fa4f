"""The ID block of an SEV-SNP guest: what its owner signs, and the key digests that the report then shows.

With an ID block the processor itself refuses a launch with another digest or policy, and the report has the
digests of the keys that vouched for it: a verifier can pin a signer in place of a launch digest.

Source: AMD SEV Secure Nested Paging Firmware ABI 1.55, 8.18 and tables 74 (ID block), 75 and chapter 10
(ECDSA P-384 public keys).
"""

from __future__ import annotations

import struct

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import MeasureError

ID_BYTES = 16  # of a family and of an image
_BLOCK = struct.Struct("<48s16s16sIIQ")
_VERSION = 1
_KEY = struct.Struct("<I72s72s880x")
_CURVE_P384 = 2
_COORDINATE_BITS = 384


def write_id_block(
    launch_digest: Digest,
    *,
    policy: int,
    family: bytes = bytes(ID_BYTES),
    image: bytes = bytes(ID_BYTES),
    security_version: int = 0,
) -> bytes:
    """Return the 96 bytes that the ID key signs.

    Args:
        launch_digest: what `snp.predict_snp_launch` gave.
        policy: POLICY of the guest, which the launch must have.
        family: any 16 bytes, shown in the report.
        image: any 16 bytes, shown in the report.
        security_version: GUEST_SVN, shown in the report.

    Raises:
        MeasureError: a value that the block has no room for.
    """
    if launch_digest.algorithm is not HashAlgorithm.SHA384:
        raise MeasureError(f"ID block: expected a sha384 launch digest, got {launch_digest.algorithm.value}")
    if len(family) != ID_BYTES or len(image) != ID_BYTES:
        raise MeasureError(f"ID block: expected {ID_BYTES} bytes each, got {len(family)} and {len(image)}")
    if not (0 <= policy < 1 << 64 and 0 <= security_version < 1 << 32):
        raise MeasureError("ID block: expected a 64-bit policy and a 32-bit security version")
    return _BLOCK.pack(launch_digest.value, family, image, _VERSION, security_version, policy)


def id_key_digest(*, x: int, y: int) -> Digest:
    """Return ID_KEY_DIGEST or AUTHOR_KEY_DIGEST of a report, for the P-384 public key at this point.

    Raises:
        MeasureError: a coordinate that is none of P-384.
    """
    if not (0 <= x < 1 << _COORDINATE_BITS and 0 <= y < 1 << _COORDINATE_BITS):
        raise MeasureError("ID key: expected the coordinates of a P-384 point")
    key = _KEY.pack(_CURVE_P384, x.to_bytes(72, "little"), y.to_bytes(72, "little"))
    return Digest.of(HashAlgorithm.SHA384, key)
