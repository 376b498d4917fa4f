"""A TPM used from outside as the gate uses it from inside: endorsement, quote, credential activation.

The operator's forgery answers with this; a genuine gate does the same in Go.

Source: TPM 2.0 Library Part 3 (the commands named below), Part 2 (structures); TCG EK Credential Profile 2.5,
B.3.3 (template L-1).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from blindbuild.digest import HashAlgorithm
from blindbuild.errors import MachineError
from blindbuild.machine.tpm_connection import EMPTY_PASSWORD, TpmConnection, password_sessions

EK_CERTIFICATE_INDICES = (0x01C00002, 0x01C00016)  # RSA-2048, P-384

_RH_ENDORSEMENT = 0x4000000B
_RH_NULL = 0x40000007
_CC_ACTIVATE_CREDENTIAL = 0x147
_CC_CREATE_PRIMARY = 0x131
_CC_NV_READ = 0x14E
_CC_NV_READ_PUBLIC = 0x169
_CC_POLICY_SECRET = 0x151
_CC_QUOTE = 0x158
_CC_START_AUTH_SESSION = 0x176
_ALG_NULL = 0x0010
_ALG_SHA256 = 0x000B
_SE_POLICY = 0x01
_NV_CHUNK = 1024  # TPM_PT_NV_BUFFER_MAX of libtpms

# docs/spec/evidence.md: ECC P-256, ECDSA with SHA-256, restricted signing key
AK_TEMPLATE = struct.pack(
    ">HHIHHHHHHHH", 0x0023, 0x000B, 0x00050072, 0, 0x0010, 0x0018, 0x000B, 0x0003, 0x0010, 0, 0
)
_EK_POLICY = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
EK_TEMPLATE = (
    struct.pack(">HHIH", 0x0001, 0x000B, 0x000300B2, len(_EK_POLICY))
    + _EK_POLICY
    + struct.pack(">HHHHHI", 0x0006, 128, 0x0043, 0x0010, 2048, 0)
    + struct.pack(">H", 256)
    + bytes(256)
)


@dataclass(frozen=True, slots=True)
class LoadedKey:
    """A primary key in the TPM, with its TPM2B_PUBLIC."""

    handle: int
    public: bytes


class TpmAttester:
    """EK and AK of a connected TPM that is powered on.

    Raises:
        MachineError: from every method, when the TPM says no.
    """

    def __init__(self, tpm: TpmConnection) -> None:
        self._tpm = tpm
        self.endorsement_key = self._create_primary(EK_TEMPLATE)
        self.attestation_key = self._create_primary(AK_TEMPLATE)

    def read_certificates(self) -> tuple[tuple[int, bytes], ...]:
        """Return NV index and content of each EK certificate that is there."""
        return tuple((index, read_nv(self._tpm, index)) for index in EK_CERTIFICATE_INDICES)

    def quote(self, algorithm: HashAlgorithm, extra_data: bytes) -> tuple[bytes, bytes]:
        """Return TPMS_ATTEST and TPMT_SIGNATURE over all 24 registers of one bank (TPM2_Quote)."""
        selection = struct.pack(">IHB", 1, algorithm.tpm_id, 3) + b"\xff\xff\xff"
        answer = self._tpm.execute(
            _CC_QUOTE,
            handles=struct.pack(">I", self.attestation_key.handle),
            authorization=password_sessions(1),
            parameters=_sized(extra_data) + struct.pack(">H", _ALG_NULL) + selection,
        )
        parameters = _parameters(answer)
        attest, rest = _split_sized(parameters)
        return attest, rest

    def activate_credential(self, blob: bytes, encrypted_secret: bytes) -> bytes:
        """Open a credential made for this EK and AK (TPM2_ActivateCredential).

        Args:
            blob: TPM2B_ID_OBJECT.
            encrypted_secret: TPM2B_ENCRYPTED_SECRET.
        """
        session = self._start_endorsement_session()
        # password for the AK; the policy session, with no HMAC, for the EK
        sessions = EMPTY_PASSWORD + struct.pack(">IHBH", session, 0, 0, 0)
        answer = self._tpm.execute(
            _CC_ACTIVATE_CREDENTIAL,
            handles=struct.pack(">II", self.attestation_key.handle, self.endorsement_key.handle),
            authorization=struct.pack(">I", len(sessions)) + sessions,
            parameters=blob + encrypted_secret,
        )
        secret, _ = _split_sized(_parameters(answer))
        return secret

    def _create_primary(self, template: bytes) -> LoadedKey:
        """Derive the key that this template always gives (TPM2_CreatePrimary)."""
        sensitive = _sized(_sized(b"") + _sized(b""))
        answer = self._tpm.execute(
            _CC_CREATE_PRIMARY,
            handles=struct.pack(">I", _RH_ENDORSEMENT),
            authorization=password_sessions(1),
            parameters=sensitive + _sized(template) + _sized(b"") + struct.pack(">I", 0),
        )
        (handle,) = struct.unpack_from(">I", answer)
        public, _ = _split_sized(_parameters(answer[4:]))
        return LoadedKey(handle, _sized(public))

    def _start_endorsement_session(self) -> int:
        """Return a session that satisfies the EK's policy: knowledge of the endorsement password, empty."""
        answer = self._tpm.execute(
            _CC_START_AUTH_SESSION,
            handles=struct.pack(">II", _RH_NULL, _RH_NULL),
            parameters=_sized(bytes(16))
            + _sized(b"")
            + struct.pack(">BHH", _SE_POLICY, _ALG_NULL, _ALG_SHA256),
        )
        (session,) = struct.unpack_from(">I", answer)
        self._tpm.execute(
            _CC_POLICY_SECRET,
            handles=struct.pack(">II", _RH_ENDORSEMENT, session),
            authorization=password_sessions(1),
            parameters=_sized(b"") + _sized(b"") + _sized(b"") + struct.pack(">i", 0),
        )
        return int(session)


def read_nv(tpm: TpmConnection, index: int) -> bytes:
    """Return the whole content of an NV index that an empty password opens (NV_ReadPublic, NV_Read).

    Raises:
        MachineError: there is no such index, or it cannot be read.
    """
    handle = struct.pack(">I", index)
    public, _ = _split_sized(tpm.execute(_CC_NV_READ_PUBLIC, handles=handle))
    (size,) = struct.unpack(">H", public[-2:])
    content = b""
    while len(content) < size:
        wanted = min(_NV_CHUNK, size - len(content))
        answer = tpm.execute(
            _CC_NV_READ,
            handles=handle * 2,
            authorization=password_sessions(1),
            parameters=struct.pack(">HH", wanted, len(content)),
        )
        piece, _ = _split_sized(_parameters(answer))
        content += piece
    return content


def _sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def _split_sized(data: bytes) -> tuple[bytes, bytes]:
    """Return a TPM2B's content and what follows it."""
    size = int.from_bytes(data[:2], "big")
    if len(data) < 2 + size:
        raise MachineError(f"TPM: expected a buffer of {size} bytes, got {max(0, len(data) - 2)}")
    return data[2 : 2 + size], data[2 + size :]


def _parameters(answer: bytes) -> bytes:
    """Return the parameter area of an answer with sessions (Part 1, 18.7: parameterSize comes first)."""
    size = int.from_bytes(answer[:4], "big")
    if len(answer) < 4 + size:
        raise MachineError(f"TPM: expected {size} bytes of parameters, got {max(0, len(answer) - 4)}")
    return answer[4 : 4 + size]
