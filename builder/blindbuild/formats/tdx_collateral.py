"""What Intel's service answers about platforms and quoting enclaves: TCB info and enclave identity.

The signature is over the bytes of the object inside the answer: these are cut out before anything is parsed.

Source: Intel, Provisioning Certification Service API version 4: "Get TDX TCB Info" and "Get TDX QE Identity",
structures of version 3 and 2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from blindbuild.errors import FormatError
from blindbuild.formats.canonical import JsonValue, parse_json
from blindbuild.formats.fields import Fields

MAX_COLLATERAL = 256 * 1024  # bytes; real answers have less than 16 KiB
MAX_LEVELS = 256  # real lists have fewer than 20
MAX_MODULES = 32
_STATUSES = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "Revoked",
)
_TAIL = re.compile(rb',"signature":"([0-9a-fA-F]{128})"\}\s*')
_ADVISORY = 64  # of one level; real lists have fewer than ten
_COMPONENT_COUNT = 16


@dataclass(frozen=True, slots=True)
class SignedObject:
    """The object of an answer and the signature over it, neither of them verified.

    Attributes:
        raw: the bytes that are signed.
        signature: r and s.
    """

    raw: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class TcbLevel:
    """A platform with at least these versions has this status."""

    sgx: tuple[int, ...]
    tdx: tuple[int, ...]
    pce_svn: int
    status: str


@dataclass(frozen=True, slots=True)
class SvnLevel:
    """An enclave or a module with at least this version has this status."""

    svn: int
    status: str


@dataclass(frozen=True, slots=True)
class TdxModule:
    """A TDX module: who signed it, and its attributes under a mask."""

    mr_signer: bytes
    attributes: bytes
    mask: bytes
    levels: tuple[SvnLevel, ...] = ()


@dataclass(frozen=True, slots=True)
class TcbInfo:
    """What Intel says about the platforms of one FMSPC; times as it writes them."""

    issued: str
    next_update: str
    fmspc: bytes
    pce_id: bytes
    module: TdxModule
    modules: dict[str, TdxModule]
    levels: tuple[TcbLevel, ...]


@dataclass(frozen=True, slots=True)
class QeIdentity:
    """What Intel says about the quoting enclave; times as it writes them."""

    issued: str
    next_update: str
    misc_select: int
    misc_mask: int
    attributes: bytes
    attributes_mask: bytes
    mr_signer: bytes
    product: int
    levels: tuple[SvnLevel, ...]


def split_signed(data: bytes, name: str) -> SignedObject:
    """Cut the object of this name and its signature out of an answer.

    Raises:
        FormatError: another object, or anything around the two.
    """
    head = b'{"' + name.encode("ascii") + b'":'
    if len(data) > MAX_COLLATERAL:
        raise FormatError(f"{name}: expected at most {MAX_COLLATERAL} bytes, got {len(data)}")
    start = data.rfind(b',"signature":')
    tail = _TAIL.fullmatch(data, max(start, 0))
    if not data.startswith(head) or tail is None:
        raise FormatError(f'{name}: expected {{"{name}":…,"signature":"…"}} and nothing else')
    return SignedObject(data[len(head) : start], bytes.fromhex(tail[1].decode("ascii")))


def parse_tcb_info(raw: bytes) -> TcbInfo:
    """Parse the object `tcbInfo`.

    Raises:
        FormatError: not for TDX, another version, or an unknown, missing or malformed field.
    """
    fields = Fields(
        parse_json(raw, max_bytes=MAX_COLLATERAL),
        "tcbInfo",
        required=(
            *("id", "version", "issueDate", "nextUpdate", "fmspc", "pceId", "tcbType"),
            *("tcbEvaluationDataNumber", "tdxModule", "tcbLevels"),
        ),
        optional=("tdxModuleIdentities",),
    )
    fields.word("id", ("TDX",))
    fields.integer("version", minimum=3, maximum=3)
    fields.integer("tcbType", minimum=0, maximum=0)
    return TcbInfo(
        issued=fields.text("issueDate"),
        next_update=fields.text("nextUpdate"),
        fmspc=_hex(fields, "fmspc", 6),
        pce_id=_hex(fields, "pceId", 2),
        module=_read_module(_module_fields(fields.raw("tdxModule"), "tdxModule")),
        modules=_read_modules(fields),
        levels=tuple(
            _read_level(entry, f"tcbLevels[{index}]")
            for index, entry in enumerate(fields.array("tcbLevels", minimum=1, maximum=MAX_LEVELS))
        ),
    )


def parse_qe_identity(raw: bytes) -> QeIdentity:
    """Parse the object `enclaveIdentity`.

    Raises:
        FormatError: not of the TD quoting enclave, another version, or an unknown, missing or malformed
            field.
    """
    fields = Fields(
        parse_json(raw, max_bytes=MAX_COLLATERAL),
        "enclaveIdentity",
        required=(
            *("id", "version", "issueDate", "nextUpdate", "tcbEvaluationDataNumber", "miscselect"),
            *("miscselectMask", "attributes", "attributesMask", "mrsigner", "isvprodid", "tcbLevels"),
        ),
    )
    fields.word("id", ("TD_QE",))
    fields.integer("version", minimum=2, maximum=2)
    return QeIdentity(
        issued=fields.text("issueDate"),
        next_update=fields.text("nextUpdate"),
        misc_select=int.from_bytes(_hex(fields, "miscselect", 4), "little"),
        misc_mask=int.from_bytes(_hex(fields, "miscselectMask", 4), "little"),
        attributes=_hex(fields, "attributes", 16),
        attributes_mask=_hex(fields, "attributesMask", 16),
        mr_signer=_hex(fields, "mrsigner", 32),
        product=fields.integer("isvprodid", minimum=0, maximum=0xFFFF),
        levels=_read_svn_levels(fields),
    )


def _module_fields(value: JsonValue, where: str, *more: str) -> Fields:
    required = ("mrsigner", "attributes", "attributesMask", *more)
    return Fields(value, where, required=required)


def _read_module(fields: Fields) -> TdxModule:
    levels = _read_svn_levels(fields) if "tcbLevels" in fields else ()
    return TdxModule(
        _hex(fields, "mrsigner", 48), _hex(fields, "attributes", 8), _hex(fields, "attributesMask", 8), levels
    )


def _read_modules(top: Fields) -> dict[str, TdxModule]:
    modules: dict[str, TdxModule] = {}
    if "tdxModuleIdentities" not in top:
        return modules
    for index, entry in enumerate(top.array("tdxModuleIdentities", maximum=MAX_MODULES)):
        fields = _module_fields(entry, f"tdxModuleIdentities[{index}]", "id", "tcbLevels")
        name = fields.token("id", re.compile(r"TDX_[0-9A-Fa-f]{2}")).upper()
        if name in modules:
            raise fields.fail("id", "expected each module once")
        modules[name] = _read_module(fields)
    return modules


def _read_level(value: JsonValue, where: str) -> TcbLevel:
    fields, tcb = _level_fields(value, where, ("sgxtcbcomponents", "tdxtcbcomponents", "pcesvn"))
    return TcbLevel(
        sgx=_read_components(tcb, "sgxtcbcomponents"),
        tdx=_read_components(tcb, "tdxtcbcomponents"),
        pce_svn=tcb.integer("pcesvn", minimum=0, maximum=0xFFFF),
        status=fields.word("tcbStatus", _STATUSES),
    )


def _read_svn_levels(top: Fields) -> tuple[SvnLevel, ...]:
    levels = []
    for index, entry in enumerate(top.array("tcbLevels", minimum=1, maximum=MAX_LEVELS)):
        fields, tcb = _level_fields(entry, f"{top.at('tcbLevels')}[{index}]", ("isvsvn",))
        svn = tcb.integer("isvsvn", minimum=0, maximum=0xFFFF)
        levels.append(SvnLevel(svn, fields.word("tcbStatus", _STATUSES)))
    return tuple(levels)


def _level_fields(value: JsonValue, where: str, parts: tuple[str, ...]) -> tuple[Fields, Fields]:
    fields = Fields(
        value,
        where,
        required=("tcb", "tcbDate", "tcbStatus"),
        optional=("advisoryIDs",),
    )
    fields.texts("advisoryIDs", maximum=_ADVISORY)
    return fields, Fields(fields.raw("tcb"), fields.at("tcb"), required=parts)


def _read_components(tcb: Fields, key: str) -> tuple[int, ...]:
    entries = tcb.array(key, minimum=_COMPONENT_COUNT, maximum=_COMPONENT_COUNT)
    return tuple(
        Fields(entry, f"{tcb.at(key)}[{index}]", required=("svn",), optional=("category", "type")).integer(
            "svn", minimum=0, maximum=0xFF
        )
        for index, entry in enumerate(entries)
    )


def _hex(fields: Fields, key: str, size: int) -> bytes:
    return bytes.fromhex(fields.token(key, re.compile(f"[0-9A-Fa-f]{{{2 * size}}}")))
