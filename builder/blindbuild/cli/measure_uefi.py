"""`blindbuild measure` for boots through UEFI firmware with a TPM."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from blindbuild.cli.measure_options import BANKS, MeasureOptions
from blindbuild.cli.naming import reading
from blindbuild.cli.render import TerminalReporter
from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import UsageError
from blindbuild.formats.authenticode import authenticode_digests
from blindbuild.formats.efivars import read_variables
from blindbuild.formats.gpt import SECTOR, has_gpt, parse_gpt
from blindbuild.formats.pe_image import read_boot_image
from blindbuild.formats.source import Source
from blindbuild.formats.tcglog import write_event_log
from blindbuild.host.file_source import FileSource
from blindbuild.host.files import hash_file, read_bytes, write_atomically
from blindbuild.host.reporter import Reporter
from blindbuild.measure.boot import (
    BootPath,
    MeasuredImage,
    UefiBoot,
    boot_events,
    find_addon_authorities,
)
from blindbuild.measure.classification import PlatformReference
from blindbuild.measure.direct import Confidential, DirectMachine, direct_load_options, measure_direct_kernel
from blindbuild.measure.event import PredictedEvent
from blindbuild.measure.kernel import measure_kernel
from blindbuild.measure.log import predicted_log
from blindbuild.measure.pcr00 import predict_dxe_volume
from blindbuild.measure.platforms import Platform, find_platform
from blindbuild.measure.profiles import (
    PROFILES,
    GceTechnology,
    Profile,
    UnknownKeys,
    find_profile,
    predict_profile,
)
from blindbuild.measure.reference import predict_platform
from blindbuild.measure.secure_boot import SecureBootState, read_secure_boot
from blindbuild.measure.shim import Shim
from blindbuild.measure.stub_inputs import Addon, NamedFiles, StubInputs
from blindbuild.measure.uki import MeasuredUki, measure_uki

CLOUDS = tuple(profile.identifier for profile in PROFILES)
MAX_SMALL_FILE = 64 << 20  # bytes: firmware, its variables, key lists, what is beside a UKI; all far below
MAX_KERNEL = 1 << 28  # bytes of one that QEMU may change, so that it is held in memory; some have 100 MiB
MAX_INITRD = 1 << 29  # bytes of one that is held in memory, because it goes to a UKI's stub
_SHOW_FROM = 256 << 20  # bytes; less is hashed in well under two seconds
_VERSION = re.compile(r"([0-9]{1,3})\.([0-9]{1,3})(?:\.[0-9]{1,3})?\Z")


def predict_boot(image: Path, platform: str, options: MeasureOptions) -> PlatformReference:
    """Predict the boot that the options describe, and write its log if they ask for it.

    Raises:
        BlindbuildError: an input that is malformed, or does not go with the others.
    """
    algorithms = tuple(HashAlgorithm(name) for name in options.banks or BANKS)
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(open_image(image))
        if platform in CLOUDS:
            return _predict_cloud(source, platform, options, algorithms)
        boot = describe_boot(source, find_platform(platform), options, algorithms)
        measured = measure_image(source, boot, options, algorithms)
    boot = trust_addons(boot, measured, options)
    reference = predict_platform(measured, platform=boot.platform, firmware=_firmware(options), boot=boot)
    if options.event_log is not None:
        log = predicted_log(boot_events(measured, boot), algorithms, leave_out=boot.unpredictable)
        write_atomically(options.event_log, write_event_log(log))
    if options.direct:
        name = platform.replace("-q35-", "-direct-")
        return replace(reference, identifier=name, kind="qemu-direct")
    return reference


def read_firmware_event(
    options: MeasureOptions, algorithms: Sequence[HashAlgorithm]
) -> PredictedEvent | None:
    """Return the event of register 0 that the firmware's file decides, None without a file.

    Raises:
        FormatError: the file is no OVMF build.
    """
    if options.firmware is None:
        return None
    return predict_dxe_volume(read_small(options.firmware), algorithms)


def _predict_cloud(
    source: Source, platform: str, options: MeasureOptions, algorithms: Sequence[HashAlgorithm]
) -> PlatformReference:
    profile = find_profile(platform)
    state = _cloud_state(source, options)
    measured = _measure_uki_or_kernel(source, options, algorithms, secure_boot=state.enabled)
    authorities = () if isinstance(state, UnknownKeys) else _addon_authorities(measured, state, options)
    return predict_profile(
        measured,
        profile,
        secure_boot=state,
        addon_authorities=authorities,
        partition_table=None if options.disk is None else _partition_table(options.disk),
        technology=_technology(profile, options.memory_protection),
    )


def _cloud_state(source: Source, options: MeasureOptions) -> SecureBootState | UnknownKeys:
    """Return the keys of the machine; a cloud's own are often not at hand."""
    if not any(_key_files(options).values()) and options.variables is None:
        return UnknownKeys(enabled=bool(options.secure_boot))
    return read_state(options).trusting(source)


def _technology(profile: Profile, named: str | None) -> GceTechnology | None:
    if named is not None:
        return GceTechnology[named.upper().replace("-", "_")]
    if len(profile.technologies) == 1:
        return next(iter(profile.technologies))
    return GceTechnology.NONE if GceTechnology.NONE in profile.technologies else None


@contextlib.contextmanager
def open_image(path: Path) -> Iterator[Source]:
    """Open an image; one that takes long to hash shows how far it is."""
    with FileSource(path) as source:
        with reading(path, hint="an image is a UKI or a kernel with an EFI stub"):
            parsed = read_boot_image(source)
        if parsed.has_section(".sdmagic") and not parsed.has_section(".linux"):
            raise UsageError(f"{path}: expected a UKI or a kernel, got a program of systemd without a kernel")
        if source.size < _SHOW_FROM:
            yield source
            return
        with TerminalReporter() as reporter:
            reporter.begin(f"measure {path.name}", source.size)
            yield _WatchedSource(source, reporter)
            reporter.finish(f"{source.size >> 20} MiB")


class _WatchedSource:
    """A source whose reader is seen; parts that are read again, for their place, do not count."""

    def __init__(self, source: Source, reporter: Reporter) -> None:
        self._source = source
        self._reporter = reporter
        self._furthest = 0

    @property
    def size(self) -> int:
        return self._source.size

    def read(self, offset: int, size: int) -> bytes:
        if offset + size > self._furthest:
            self._furthest = offset + size
            self._reporter.advance(self._furthest)
        return self._source.read(offset, size)


def read_state(options: MeasureOptions) -> SecureBootState:
    """Return the Secure Boot state that the options describe.

    Raises:
        BlindbuildError: a malformed variable file or key list.
    """
    state = SecureBootState() if options.variables is None else _stored_state(options.variables)
    given = {name: read_small(path) for name, path in _key_files(options).items() if path is not None}
    enabled = state.enabled if options.secure_boot is None else options.secure_boot
    return replace(
        state,
        enabled=enabled,
        pk=given.get("pk", state.pk),
        kek=given.get("kek", state.kek),
        db=given.get("db", state.db),
        dbx=given.get("dbx", state.dbx),
    )


def _key_files(options: MeasureOptions) -> dict[str, Path | None]:
    return {
        "pk": options.platform_key,
        "kek": options.key_exchange_key,
        "db": options.allowed_signatures,
        "dbx": options.forbidden_signatures,
    }


def _stored_state(path: Path) -> SecureBootState:
    with reading(path, hint="a variable file is one such as OVMF_VARS_4M.fd, not the firmware's code"):
        return read_secure_boot(read_variables(read_small(path)))


def describe_boot(
    source: Source, platform: Platform, options: MeasureOptions, algorithms: Sequence[HashAlgorithm]
) -> UefiBoot:
    """Return the boot that the options describe.

    Raises:
        BlindbuildError: an input that is malformed, or does not go with the others.
    """
    state = read_state(options)
    shim = None if options.shim is None else _read_image(options.shim)
    return UefiBoot(
        platform=platform,
        secure_boot=state.trusting(source if shim is None else shim),
        partition_table=None if options.disk is None else _partition_table(options.disk),
        shim=None if shim is None else Shim(authenticode=authenticode_digests(shim, algorithms)),
        path=BootPath.DIRECT if options.direct else BootPath.DISK,
    )


def trust_addons(boot: UefiBoot, measured: MeasuredImage, options: MeasureOptions) -> UefiBoot:
    """Return the boot with the entries of db that validate its addons; unchanged where nobody asks db.

    Raises:
        BlindbuildError: no entry validates one of them.
    """
    if boot.shim is not None:
        return boot
    return replace(boot, addon_authorities=_addon_authorities(measured, boot.secure_boot, options))


def _addon_authorities(
    measured: MeasuredImage, state: SecureBootState, options: MeasureOptions
) -> tuple[bytes, ...]:
    if not isinstance(measured, MeasuredUki):
        return ()
    return find_addon_authorities(measured, state, map(read_small, options.addons))


def _partition_table(path: Path) -> bytes | None:
    with FileSource(path) as disk, reading(path):
        if has_gpt(disk):
            return parse_gpt(disk).event_data
        if disk.size < SECTOR or disk.read(SECTOR - 2, 2) != b"\x55\xaa":
            raise UsageError("expected a disk with a partition table or a FAT file system, got neither")
        return None


def measure_image(
    source: Source,
    boot: UefiBoot,
    options: MeasureOptions,
    algorithms: Sequence[HashAlgorithm],
    *,
    confidential: Confidential = Confidential.NONE,
) -> MeasuredImage:
    """Measure a UKI, or a kernel without a stub, as the options say that it is started.

    Raises:
        BlindbuildError: an image that is malformed, or options that say nothing about such an image.
    """
    secure_boot, edk2 = boot.secure_boot.enabled, boot.platform.edk2
    if not options.direct:
        return _measure_uki_or_kernel(
            source, options, algorithms, secure_boot=secure_boot, confidential=confidential
        )
    if not _is_uki(source):
        _refuse_stub_inputs(options)
        return _measure_direct_kernel(source, options, algorithms, edk2, confidential)
    has_initrd = options.initrd is not None and options.initrd.stat().st_size > 0
    text = direct_load_options(options.command_line, has_initrd=has_initrd, edk2=edk2)
    return _measure_uki_or_kernel(
        source,
        replace(options, load_options=text),
        algorithms,
        secure_boot=secure_boot,
        confidential=confidential,
    )


def _is_uki(source: Source) -> bool:
    return read_boot_image(source).has_section(".linux")


def _measure_uki_or_kernel(
    source: Source,
    options: MeasureOptions,
    algorithms: Sequence[HashAlgorithm],
    *,
    secure_boot: bool,
    confidential: Confidential = Confidential.NONE,
) -> MeasuredImage:
    text = options.load_options
    if any(0xD800 <= ord(character) <= 0xDFFF for character in text):
        raise UsageError(f"--load-options: expected text in UTF-8, got {text[:80]!r}")
    if not _is_uki(source):
        _refuse_stub_inputs(options)
        measured = measure_kernel(source, algorithms)
        return replace(measured, load_options=(text + "\0").encode("utf-16-le") if text else b"")
    inputs = _stub_inputs(options, secure_boot=secure_boot, confidential=confidential)
    return measure_uki(source, algorithms, inputs=inputs, stub_version=options.stub_version)


def _registered_initrd(options: MeasureOptions) -> bytes:
    """Return the initrd that firmware registers for whatever QEMU's -kernel starts."""
    if not options.direct or options.initrd is None:
        return b""
    return read_bytes(options.initrd, error=UsageError, limit_bytes=MAX_INITRD)


def _stub_inputs(options: MeasureOptions, *, secure_boot: bool, confidential: Confidential) -> StubInputs:
    return StubInputs(
        secure_boot=secure_boot,
        confidential=confidential is not Confidential.NONE,
        profile=options.profile,
        load_options=options.load_options,
        addons=tuple(Addon(name=path.name, image=_read_image(path)) for path in options.addons),
        credentials=_named(options.credentials),
        sysexts=_named(options.sysexts),
        confexts=_named(options.confexts),
        smbios_command_line=options.smbios_command_line,
        consoles=tuple(filter(None, options.consoles)) if options.consoles else None,
        previous_initrd=_registered_initrd(options),
    )


def _named(paths: Sequence[Path]) -> NamedFiles:
    return tuple((path.name, read_small(path)) for path in paths)


def _measure_direct_kernel(
    source: Source,
    options: MeasureOptions,
    algorithms: Sequence[HashAlgorithm],
    edk2: int,
    confidential: Confidential,
) -> MeasuredImage:
    if options.qemu is None or options.memory is None:
        raise UsageError(
            "--direct: expected --qemu and --memory, since QEMU may change the kernel by them, got not both"
        )
    if source.size > MAX_KERNEL:
        raise UsageError(f"--direct: expected a kernel of at most {MAX_KERNEL} bytes, got {source.size}")
    machine = DirectMachine(
        qemu=_parse_version(options.qemu),
        edk2=edk2,
        memory_bytes=options.memory << 20,
        confidential=confidential,
    )
    with contextlib.ExitStack() as stack:
        initrd = None if options.initrd is None else stack.enter_context(FileSource(options.initrd))
        return measure_direct_kernel(
            source.read(0, source.size),
            command_line=options.command_line,
            initrd=initrd,
            machine=machine,
            algorithms=algorithms,
        )


def _parse_version(text: str) -> tuple[int, int]:
    match = _VERSION.match(text)
    if match is None:
        raise UsageError(f"--qemu: expected a version such as 7.2, got {text[:80]!r}")
    return int(match[1]), int(match[2])


def _refuse_stub_inputs(options: MeasureOptions) -> None:
    """Refuse what only a stub would look at: a plain kernel has none."""
    given = {
        "--stub-version": options.stub_version,
        "--profile": options.profile,
        "--addon": options.addons,
        "--credential": options.credentials,
        "--sysext": options.sysexts,
        "--confext": options.confexts,
        "--console": options.consoles,
        "--smbios-command-line": options.smbios_command_line,
    }
    for name, value in given.items():
        if value:
            raise UsageError(f"{name}: expected a UKI, got an image without a section .linux")


def _firmware(options: MeasureOptions) -> Digest | None:
    return None if options.firmware is None else hash_file(options.firmware)[1]


def _read_image(path: Path) -> bytes:
    data = read_small(path)
    with reading(path):
        read_boot_image(data)
    return data


def read_small(path: Path) -> bytes:
    """Return a file that is small by its nature.

    Raises:
        UsageError: it is not, or cannot be read.
    """
    return read_bytes(path, error=UsageError, limit_bytes=MAX_SMALL_FILE)
