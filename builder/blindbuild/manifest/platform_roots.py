"""The roots file: which makers of processors a client believes, and how old their firmware may be.

It stands beside the trust file, for the evidence that `verify.snp`, `verify.tdx` and `verify.nitro` judge.
People make it, so it is strict JSON, but not canonical. Source: docs/spec/platform-evidence.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from blindbuild.errors import FormatError, ManifestError
from blindbuild.formats.canonical import parse_json
from blindbuild.formats.certificate import Certificate, parse_pem_certificate
from blindbuild.formats.fields import Fields
from blindbuild.formats.snp_report import SigningKey, TcbVersion

MAX_ROOTS = 1 << 18  # bytes; three products of AMD, Intel and AWS together have 20 KiB
PRODUCTS = ("Genoa", "Milan", "Turin")
PRODUCTS_WITH_FMC = frozenset({"Turin"})  # 57230 and 56860, TCB_VERSION
TCB_STATUSES = (
    "ConfigurationAndSWHardeningNeeded",
    "ConfigurationNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "SWHardeningNeeded",
    "UpToDate",
)  # all of Intel's but Revoked, which no file can allow
MAX_VENDOR_ROOTS = 8  # of one maker: the current one and its successors
_MAX_SVN = 255
_MAX_AGE_S = 24 * 3600  # longer than a day a document is an archive, not evidence


@dataclass(frozen=True, slots=True)
class SnpProduct:
    """One product line of AMD.

    Attributes:
        root: its AMD Root Key (ARK).
        issuers: by kind of signing key, the intermediate that certifies it (ASK or ASVK).
        minimum: the lowest TCB that is accepted.
    """

    name: str
    root: Certificate
    issuers: dict[SigningKey, Certificate]
    minimum: TcbVersion


@dataclass(frozen=True, slots=True)
class SnpTrust:
    """What is believed of SEV-SNP; the defaults are the strict ones.

    Attributes:
        allow_smt: the guest may share cores with whatever the host runs.
        allow_migration_agent: the guest may be handed to an agent that decides where it runs.
        maximum_vmpl: the least privileged level that may speak for the image; 0 is the most privileged one.
    """

    products: tuple[SnpProduct, ...]
    allow_smt: bool = False
    allow_migration_agent: bool = False
    maximum_vmpl: int = 0


@dataclass(frozen=True, slots=True)
class TdxTrust:
    """What is believed of TDX; the defaults are the strict ones.

    Attributes:
        roots: Intel's SGX roots.
        statuses: what Intel may say of the platform's and the quoting enclave's TCB.
        require_collateral: refuse a quote without what Intel says of its TCB.
        allow_migration: the trust domain may be moved to another machine.
    """

    roots: tuple[Certificate, ...]
    statuses: frozenset[str] = frozenset({"UpToDate"})
    require_collateral: bool = True
    allow_migration: bool = False


@dataclass(frozen=True, slots=True)
class NitroTrust:
    """What is believed of Nitro Enclaves.

    Attributes:
        roots: AWS's roots for enclaves.
        max_age_s: how old a document may be.
    """

    roots: tuple[Certificate, ...]
    max_age_s: int = 300


@dataclass(frozen=True, slots=True)
class PlatformRoots:
    """Whom a client believes; None for a maker it does not believe."""

    snp: SnpTrust | None
    tdx: TdxTrust | None
    nitro: NitroTrust | None


def parse_platform_roots(data: bytes) -> PlatformRoots:
    """Parse a roots file.

    Raises:
        ManifestError: not strict JSON, an unknown or missing field, a product or certificate twice, or nobody
            to believe.
    """
    try:
        value = parse_json(data, max_bytes=MAX_ROOTS)
    except FormatError as error:
        raise ManifestError(f"roots file: {error.message}") from error
    fields = Fields(
        value,
        "roots file",
        required=("version",),
        optional=("sevSnp", "tdx", "nitroEnclaves"),
        error=ManifestError,
    )
    fields.integer("version", minimum=1, maximum=1)
    roots = PlatformRoots(
        snp=_read_snp(fields) if "sevSnp" in fields else None,
        tdx=_read_tdx(fields) if "tdx" in fields else None,
        nitro=_read_nitro(fields) if "nitroEnclaves" in fields else None,
    )
    if roots == PlatformRoots(None, None, None):
        raise ManifestError("roots file: expected sevSnp, tdx or nitroEnclaves, got none")
    return roots


def _read_snp(top: Fields) -> SnpTrust:
    fields = Fields(
        top.raw("sevSnp"),
        top.at("sevSnp"),
        required=("products",),
        optional=("allowSmt", "allowMigrationAgent", "maximumVmpl"),
        error=ManifestError,
    )
    entries = fields.array("products", minimum=1, maximum=len(PRODUCTS))
    products = tuple(
        _read_product(
            Fields(
                entry,
                where,
                required=("name", "root", "minimumTcb"),
                optional=("vcekIssuer", "vlekIssuer"),
                error=ManifestError,
            )
        )
        for entry, where in ((e, f"{fields.at('products')}[{i}]") for i, e in enumerate(entries))
    )
    names = [product.name for product in products]
    if len(set(names)) != len(names):
        raise fields.fail("products", "expected each product once")
    return SnpTrust(
        products,
        allow_smt=_flag(fields, "allowSmt", default=False),
        allow_migration_agent=_flag(fields, "allowMigrationAgent", default=False),
        maximum_vmpl=fields.integer("maximumVmpl", minimum=0, maximum=3) if "maximumVmpl" in fields else 0,
    )


def _read_product(fields: Fields) -> SnpProduct:
    name = fields.word("name", PRODUCTS)
    keys = {SigningKey.VCEK: "vcekIssuer", SigningKey.VLEK: "vlekIssuer"}
    issuers = {kind: _certificate(fields, key) for kind, key in keys.items() if key in fields}
    if not issuers:
        raise fields.fail("vcekIssuer", "expected an issuer of VCEKs or of VLEKs, got none")
    with_fmc = name in PRODUCTS_WITH_FMC
    parts = ("bootloader", "tee", "snp", "microcode", *(("fmc",) if with_fmc else ()))
    minimum = Fields(fields.raw("minimumTcb"), fields.at("minimumTcb"), required=parts, error=ManifestError)
    versions = {part: minimum.integer(part, minimum=0, maximum=_MAX_SVN) for part in parts}
    return SnpProduct(name, _certificate(fields, "root"), issuers, TcbVersion(**versions))


def _read_tdx(top: Fields) -> TdxTrust:
    fields = Fields(
        top.raw("tdx"),
        top.at("tdx"),
        required=("roots",),
        optional=("acceptedTcbStatus", "requireCollateral", "allowMigration"),
        error=ManifestError,
    )
    statuses = fields.texts("acceptedTcbStatus", minimum=1, maximum=len(TCB_STATUSES)) or ("UpToDate",)
    if not set(statuses) <= set(TCB_STATUSES):
        raise fields.fail("acceptedTcbStatus", f"expected some of {', '.join(TCB_STATUSES)}")
    return TdxTrust(
        _roots(fields),
        statuses=frozenset(statuses),
        require_collateral=_flag(fields, "requireCollateral", default=True),
        allow_migration=_flag(fields, "allowMigration", default=False),
    )


def _read_nitro(top: Fields) -> NitroTrust:
    fields = Fields(
        top.raw("nitroEnclaves"),
        top.at("nitroEnclaves"),
        required=("roots",),
        optional=("maximumAgeSeconds",),
        error=ManifestError,
    )
    if "maximumAgeSeconds" not in fields:
        return NitroTrust(_roots(fields))
    return NitroTrust(_roots(fields), fields.integer("maximumAgeSeconds", minimum=1, maximum=_MAX_AGE_S))


def _flag(fields: Fields, key: str, *, default: bool) -> bool:
    return fields.boolean(key) if key in fields else default


def _roots(fields: Fields) -> tuple[Certificate, ...]:
    texts = fields.texts("roots", minimum=1, maximum=MAX_VENDOR_ROOTS)
    roots = tuple(_parse(fields, "roots", text) for text in texts)
    if len({root.der for root in roots}) != len(roots):
        raise fields.fail("roots", "expected each certificate once")
    return roots


def _certificate(fields: Fields, key: str) -> Certificate:
    return _parse(fields, key, fields.text(key))


def _parse(fields: Fields, key: str, text: str) -> Certificate:
    try:
        return parse_pem_certificate(text)
    except FormatError as error:
        raise fields.fail(key, error.message) from error
