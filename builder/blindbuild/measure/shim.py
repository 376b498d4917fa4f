"""shim as the first image, with the UKI as its second stage: the events that shim itself causes.

Sources, all rhboot/shim at 72fd4b70 (2026-07-27): mok.c, mok_state_variable_data (the table of variables and
their registers) and mirror_one_mok_variable (what of them is measured); verify.c, verify_one_signature (under
which name an authority is measured); pe.c, handle_image (the second stage in PCR 4, Secure Boot on or off).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from blindbuild.digest import HashAlgorithm
from blindbuild.errors import MeasureError
from blindbuild.formats.siglist import (
    EFI_CERT_SHA256,
    SignatureEntry,
    SignatureList,
    parse_signature_lists,
    write_signature_lists,
    x509_list,
)
from blindbuild.formats.tcgevent import EFI_IMAGE_SECURITY_DATABASE, EventType
from blindbuild.measure.event import Digests, PredictedEvent, measured_event
from blindbuild.measure.pcr07 import predict_authority

SHIM_LOCK = UUID("605dab50-e046-4300-abb6-3dd810dd8b23")

# In the order of shim's table: the registers that each variable is measured into. PCR 7 takes the variable
# with its name as an authority, PCR 14 its data alone.
_REGISTERS = {
    "MokList": (14,),
    "MokListX": (14,),
    "MokSBState": (7, 14),
    "SbatLevel": (7,),
    "MokListTrusted": (14,),
    "MokPolicy": (14,),
}
# Key lists always exist: an empty one is written as one digest of zeros (mok.c, null_sha256).
_EMPTY_LIST = write_signature_lists([SignatureList(EFI_CERT_SHA256, (SignatureEntry(SHIM_LOCK, bytes(32)),))])


@dataclass(frozen=True, slots=True)
class MokVariable:
    """A variable as shim mirrors it: its own data behind what is built into shim."""

    name: str
    data: bytes

    def __post_init__(self) -> None:
        if self.name not in _REGISTERS or not self.data:
            raise MeasureError(
                f"shim variable: expected one of {', '.join(_REGISTERS)} with data, got {self.name!r}"
            )


@dataclass(frozen=True, slots=True)
class ShimAuthority:
    """What shim validated its second stage by.

    Attributes:
        name: `db`, `vendor_db`, `MokListRT` or `Shim`.
        data: owner and certificate; for `Shim`, the certificate alone.
    """

    name: str
    data: bytes

    def __post_init__(self) -> None:
        if self.name not in ("db", "vendor_db", "MokListRT", "Shim") or not self.data:
            raise MeasureError(
                f"shim authority: expected db, vendor_db, MokListRT or Shim, got {self.name!r}"
            )

    @property
    def vendor(self) -> UUID:
        """The namespace that shim measures the name in."""
        return EFI_IMAGE_SECURITY_DATABASE if self.name in ("db", "vendor_db") else SHIM_LOCK


@dataclass(frozen=True, slots=True, kw_only=True)
class Shim:
    """The shim of a boot.

    Attributes:
        authenticode: of shim's file, which the firmware measures as the first image.
        variables: what `mok_variables` returns; None if it is not known, and then PCR 7 and 14 are not.
        authority: of the second stage; None with Secure Boot off.
        trust_in_pcr07: the release is older than 15.7, so that MokListTrusted is measured into PCR 7 too
            (removed by aa1b289a, 2022-10-21).
    """

    authenticode: Digests
    variables: tuple[MokVariable, ...] | None = None
    authority: ShimAuthority | None = None
    trust_in_pcr07: bool = False

    @property
    def unpredictable(self) -> dict[int, str]:
        """The registers that these inputs do not decide, with the reason."""
        if self.variables is not None:
            return {}
        reason = "shim measures the key lists and the revocation level of this machine, which were not given"
        return {7: reason, 14: reason}


def mok_variables(
    *,
    sbat_level: bytes,
    vendor: bytes = b"",
    vendor_forbidden: bytes = b"",
    mok_list: bytes = b"",
    mok_list_x: bytes = b"",
    trusts_mok_list: bool = True,
) -> tuple[MokVariable, ...]:
    """Return the variables of a machine on which no other one of shim's is set.

    Args:
        sbat_level: the text of SbatLevel that this shim boots with.
        vendor: what is built into shim: a DER certificate (vendor_cert) or lists (vendor_db).
        vendor_forbidden: the built-in vendor_dbx, as lists.
        mok_list: the lists of the variable MokList.
        mok_list_x: those of MokListX.
        trusts_mok_list: MokListTrusted does not exist, which means yes.

    Raises:
        FormatError: lists that are malformed.
    """
    built_in = _as_lists(vendor)
    for lists in (vendor_forbidden, mok_list, mok_list_x):
        parse_signature_lists(lists)
    found = [
        MokVariable("MokList", built_in + mok_list or _EMPTY_LIST),
        MokVariable("MokListX", vendor_forbidden + mok_list_x or _EMPTY_LIST),
        MokVariable("SbatLevel", sbat_level),
    ]
    if trusts_mok_list:
        found.append(MokVariable("MokListTrusted", b"\x01"))
    return tuple(found)


def predict_shim(shim: Shim, algorithms: Iterable[HashAlgorithm]) -> tuple[PredictedEvent, ...]:
    """Return what shim measures before its second stage: its variables, then the authority.

    A variable is measured in the order of shim's table, whatever order it was given in.
    """
    algorithms = tuple(algorithms)
    held = {variable.name: variable.data for variable in shim.variables or ()}
    if len(held) != len(shim.variables or ()):
        raise MeasureError("shim variables: expected each of them once")
    events: list[PredictedEvent] = []
    for name, registers in _REGISTERS.items():
        if name in held:
            late = name == "MokListTrusted" and shim.trust_in_pcr07
            events += _variable_events(name, held[name], (7, *registers) if late else registers, algorithms)
    if shim.authority is not None:
        name, vendor = shim.authority.name, shim.authority.vendor
        events.append(predict_authority(shim.authority.data, algorithms, name=name, vendor=vendor))
    return tuple(events)


def _variable_events(
    name: str, data: bytes, registers: tuple[int, ...], algorithms: tuple[HashAlgorithm, ...]
) -> list[PredictedEvent]:
    events = []
    if 7 in registers:
        events.append(predict_authority(data, algorithms, name=name, vendor=SHIM_LOCK))
    if 14 in registers:
        text = name.encode("ascii") + b"\0"
        events.append(
            measured_event(14, EventType.EV_IPL, data, f"shim's {name}", algorithms=algorithms, data=text)
        )
    return events


def _as_lists(vendor: bytes) -> bytes:
    """Return a certificate as the list that shim makes of it, lists as they are."""
    if vendor[:1] == b"\x30":  # DER: a SEQUENCE; no type of signature list begins so
        return write_signature_lists([x509_list(vendor, SHIM_LOCK)])
    parse_signature_lists(vendor)
    return vendor
