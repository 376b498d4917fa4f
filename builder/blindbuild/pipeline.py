"""The only place that knows all stages: lock -> inputs -> kernel, guest -> UKI -> disk -> statement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from blindbuild import __version__
from blindbuild.assemble.command_line import kernel_command_line
from blindbuild.assemble.disk import build_disk, build_gpt_disk
from blindbuild.assemble.guest import BuiltGuest, build_guest
from blindbuild.assemble.initramfs import pack_initramfs
from blindbuild.assemble.kernel import BuiltKernel, build_kernel
from blindbuild.assemble.kernel_config import load_fragments, parse_config
from blindbuild.assemble.kernel_policy import load_policy
from blindbuild.assemble.kernel_prebuilt import PREBUILT_WORDS, is_prebuilt, take_prebuilt_kernel
from blindbuild.assemble.lock import Lock, LockedPackage
from blindbuild.assemble.recipe import Recipe, read_local_file
from blindbuild.assemble.request import IMAGE_STAGE, BuildRequest
from blindbuild.assemble.rootfs import GateConf, InitConf, StaticNetwork, assemble_rootfs
from blindbuild.assemble.toolchain import prepare_toolchain, toolchain_key
from blindbuild.assemble.tree import Tree, file_entry, from_deb_packages
from blindbuild.assemble.uki import build_uki
from blindbuild.assemble.wheel import from_wheel
from blindbuild.audit.channels import Allowance, LedgerInputs, Waiver, write_ledger
from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import BuildError, LockError
from blindbuild.formats.deb import read_deb
from blindbuild.formats.gpt import has_gpt, parse_gpt
from blindbuild.host.reporter import Reporter
from blindbuild.host.sandbox import run_in_sandbox
from blindbuild.host.store import Store
from blindbuild.machine.firmware import CODE_MEMBER, VARIABLES_MEMBER
from blindbuild.manifest import BuildInput, Statement, Subject, statement_bytes
from blindbuild.measure.reference import reference_values

KERNEL_FEATURES = {"virtio-net", "tpm-crb"}
BANKS = (HashAlgorithm.SHA256, HashAlgorithm.SHA384, HashAlgorithm.SHA512)
STUB_PATH = b"usr/lib/systemd/boot/efi/linuxx64.efi.stub"
FIRMWARE_CODE, FIRMWARE_VARIABLES = CODE_MEMBER.encode(), VARIABLES_MEMBER.encode()
FIRMWARE_PATHS = (FIRMWARE_CODE, FIRMWARE_VARIABLES)
FIRMWARE_STAGE = "firmware"
ZSTD_TIMEOUT_S = 600.0
# One thread: the output depends on how many there are. Level 19 takes 2 s more and saves 0.16 MB of hello's
# 4 MB (gate 4.5 MB, zstd 1.5.7).
COMPRESS = ("zstd", "-12", "--single-thread", "--no-progress", "--no-check", "-q", "-c")
DECOMPRESS = ("zstd", "-d", "-q", "-c")

Modules = Mapping[str, bytes]


def build_image(request: BuildRequest, *, store: Store, reporter: Reporter) -> Path:
    """Return the store's directory with every output of the image but the envelopes; built only if it is new.

    Raises:
        BlindbuildError: whatever a stage raises; nothing half-written is left.
    """
    return store.ensure_stage(
        IMAGE_STAGE, request.key(), lambda directory: _Build(request, store, reporter).write_to(directory)
    )


def find_firmware(store: Store, code: Digest) -> tuple[bytes, bytes]:
    """Return code and variable store of the firmware that a statement names.

    Raises:
        LockError: the store does not have it.
    """
    found = store.find_stage(FIRMWARE_STAGE, code)
    if found is None:
        raise LockError(
            f"firmware {code} is not in the store", hint="build the image here: blindbuild build RECIPE"
        )
    return (found / "code.fd").read_bytes(), (found / "vars.fd").read_bytes()


class _Build:
    """One run through the stages; every method takes the earlier stages' values."""

    def __init__(self, request: BuildRequest, store: Store, reporter: Reporter) -> None:
        self._request, self._store, self._reporter = request, store, reporter
        self._recipe = request.recipe
        words = PREBUILT_WORDS if is_prebuilt(request.recipe.kernel.source) else ()
        self._command_line = " ".join((kernel_command_line(debug=request.debug, leaky=request.leaky), *words))

    def write_to(self, directory: Path) -> None:
        """Run all stages and write the outputs."""
        packages = self._group("toolchain")
        self._reporter.begin("unpack the toolchain")
        toolchain = prepare_toolchain(self._store, packages)
        self._reporter.finish(f"{len(packages)} packages")
        kernel, modules = self._kernel(toolchain, toolchain_key(packages))
        guest = self._guest(toolchain, toolchain_key(packages), loads_modules=bool(modules))
        self._reporter.begin("assemble and measure")
        outputs = self._assemble(toolchain, kernel, modules, guest)
        sums = "".join(f"{Digest.sha256(outputs[name]).hex}  {name}\n" for name in sorted(outputs))
        for name, data in {**outputs, "SHA256SUMS": sums.encode()}.items():
            (directory / name).write_bytes(data)
        self._reporter.finish(f"{len(outputs[self._recipe.name + '.efi']):,} bytes of boot image")

    def _kernel(self, toolchain: Path, key: Digest) -> tuple[BuiltKernel, Modules]:
        if set(self._recipe.kernel.features) != KERNEL_FEATURES:
            raise BuildError(
                f"kernel.features: expected {' and '.join(sorted(KERNEL_FEATURES))}, "
                f"got {' '.join(sorted(self._recipe.kernel.features)) or 'nothing'}",
                hint="the only kernel so far has both; leave the key out",
            )
        if is_prebuilt(self._recipe.kernel.source):
            return self._prebuilt()
        self._reporter.begin("compile the kernel")
        kernel = build_kernel(
            self._store,
            source=self._only("kernel-source"),
            toolchain=toolchain,
            toolchain_key=key,
            fragments=load_fragments(debug=self._request.debug, leaky=self._request.leaky),
            command_line=self._command_line,
            jobs=self._request.jobs,
            debug=self._request.debug,
            leaky=self._request.leaky,
            on_line=lambda line: self._reporter.advance(0, line[:60]),
            keep_objects=self._request.keep_objects and not self._request.leaky,
        )
        self._reporter.finish(f"{kernel.release}, {kernel.bzimage.stat().st_size:,} bytes")
        return kernel, {}

    def _prebuilt(self) -> tuple[BuiltKernel, Modules]:
        self._reporter.begin("take the kernel out of its package")
        package = self._only("kernel-source")
        kernel, paths = take_prebuilt_kernel(self._store, package, features=self._recipe.kernel.features)
        self._reporter.finish(
            f"{kernel.release}, {kernel.bzimage.stat().st_size:,} bytes and {len(paths)} modules, as Debian "
            "built it"
        )
        return kernel, {path.name: path.read_bytes() for path in paths}

    def _guest(self, toolchain: Path, key: Digest, *, loads_modules: bool) -> BuiltGuest:
        self._reporter.begin("compile init, gate and workload")
        sources = {
            file.target: read_local_file(self._recipe, file)
            for file in self._recipe.local_files
            if file.compiled
        }
        guest = build_guest(
            self._store,
            toolchain=toolchain,
            toolchain_key=key,
            variant=self._request.variant,
            loads_modules=loads_modules,
            workload_sources=sources,
            on_line=lambda line: self._reporter.advance(0, line[:60]),
        )
        self._reporter.finish(f"init {len(guest.init):,}, gate {len(guest.gate):,} bytes")
        return guest

    def _assemble(
        self, toolchain: Path, kernel: BuiltKernel, modules: Modules, guest: BuiltGuest
    ) -> dict[str, bytes]:
        recipe, config = self._recipe, kernel.config.read_bytes()
        tree = assemble_rootfs(
            init=guest.init,
            gate=guest.gate,
            filters=guest.filters,
            init_conf=_init_conf(recipe),
            gate_conf=_gate_conf(recipe),
            workload=self._workload(guest),
            modules=modules,
        )
        uki = build_uki(
            stub=_member(self._store, self._only("stub"), STUB_PATH),
            kernel=kernel.bzimage.read_bytes(),
            initrd=pack_initramfs(
                tree,
                lambda archive: _zstd(toolchain, COMPRESS, archive),
                decompress=lambda packed: _zstd(toolchain, DECOMPRESS, packed),
            ),
            command_line=self._command_line,
            built_in_command_line=(None if is_prebuilt(recipe.kernel.source) else _read_command_line(config)),
            os_release=_os_release(recipe, self._request.version),
            uname=kernel.release,
        )
        ledger = write_ledger(
            recipe.name,
            self._request.version,
            LedgerInputs(
                config=config.decode(),
                policy=load_policy(debug=self._request.debug),
                system_map=kernel.system_map.read_text(),
                uki=uki,
                debug=self._request.debug or self._request.leaky,
                waivers=tuple(
                    Waiver(f"workload{item.path}", item.what, item.control) for item in recipe.waivers
                ),
                allowed=tuple(Allowance(item.identifier, item.where) for item in recipe.channels),
                allowed_where=recipe.channels_where,
            ),
        )
        disk = build_gpt_disk(uki) if recipe.partitions == "gpt" else build_disk(uki)
        return {
            f"{recipe.name}.efi": uki,
            f"{recipe.name}.raw": disk,
            "channels.json": ledger,
            "kernel.config": config,
            "System.map": kernel.system_map.read_bytes(),
            "statement.json": self._state(uki, disk, ledger),
        }

    def _workload(self, guest: BuiltGuest) -> Tree:
        recipe, lock = self._recipe, self._request.lock
        tree = from_deb_packages(
            read_deb(self._store.read(item.digest)) for item in lock.groups.get("tree", ())
        )
        for wheel in lock.wheels:
            tree = tree.merge(from_wheel(self._store.read(wheel.digest), name=wheel.filename))
        local = {
            file.target.lstrip("/").encode(): file_entry(read_local_file(recipe, file), file.mode)
            for file in recipe.local_files
            if not file.compiled
        }
        programs = {
            target.lstrip("/").encode(): file_entry(data, 0o555) for target, data in guest.workload.items()
        }
        return tree.merge(Tree({**local, **programs}))

    def _state(self, uki: bytes, disk: bytes, ledger: bytes) -> bytes:
        code = self._firmware_code()
        platform = reference_values(
            uki,
            firmware_code=code,
            platform_id=_platform_identifier(self._only("firmware")),
            algorithms=BANKS,
            partition_table=parse_gpt(disk).event_data if has_gpt(disk) else None,
        )
        return statement_bytes(
            Statement(
                subjects=(
                    Subject(f"{self._recipe.name}.efi", {bank: Digest.of(bank, uki) for bank in BANKS[:2]}),
                ),
                name=self._recipe.name,
                version=self._request.version,
                sequence=self._recipe.sequence,
                debug=self._request.debug or self._request.variant != "product",
                memory_confidentiality="none",
                ledger=Digest.sha256(ledger),
                platforms=(platform,),
                tool=("blindbuild", __version__),
                inputs=tuple(sorted(_inputs(self._request.lock), key=lambda item: item.name)),
                channel_binding=self._recipe.network.channel,
            )
        )

    def _firmware_code(self) -> bytes:
        package = read_deb(self._store.read(self._only("firmware").digest))
        files = {entry.path: entry.data for entry in package.entries if entry.path in FIRMWARE_PATHS}
        code = files[FIRMWARE_CODE]

        def write(directory: Path) -> None:
            (directory / "code.fd").write_bytes(code)
            (directory / "vars.fd").write_bytes(files[FIRMWARE_VARIABLES])

        self._store.ensure_stage(FIRMWARE_STAGE, Digest.sha256(code), write)
        return code

    def _group(self, name: str) -> tuple[LockedPackage, ...]:
        found = self._request.lock.groups.get(name, ())
        if not found:
            raise LockError(
                f"the lock has no group {name}", hint=f"run `blindbuild lock {self._recipe.path}`"
            )
        return found

    def _only(self, group: str) -> LockedPackage:
        packages = self._group(group)
        if len(packages) != 1:
            raise LockError(f"group {group}: expected one package, got {len(packages)}")
        return packages[0]


def _member(store: Store, package: LockedPackage, path: bytes) -> bytes:
    for entry in read_deb(store.read(package.digest)).entries:
        if entry.path == path:
            return entry.data
    raise BuildError(f"{package.name} {package.version}: expected a file {path.decode()}, got none")


def _zstd(toolchain: Path, arguments: tuple[str, ...], data: bytes) -> bytes:
    return run_in_sandbox(
        toolchain, arguments, binds=(), cwd="/", env={}, timeout_s=ZSTD_TIMEOUT_S, stdin=data
    ).stdout


def _init_conf(recipe: Recipe) -> InitConf:
    fixed = recipe.network.address
    return InitConf(
        network=None if fixed is None else StaticNetwork(fixed.address, fixed.prefix_length, fixed.router),
        port=recipe.network.port,
        memory=recipe.service.memory_bytes,
        seconds=recipe.service.seconds,
        concurrency=recipe.service.concurrency,
        arguments=recipe.service.command,
    )


def _gate_conf(recipe: Recipe) -> GateConf:
    return GateConf(
        routes=recipe.service.routes,
        max_request_bytes=recipe.service.max_request_bytes,
        max_response_bytes=recipe.service.max_response_bytes,
        seconds=recipe.service.seconds,
        concurrency=recipe.service.concurrency,
        profile=recipe.network.channel,
    )


def _read_command_line(config: bytes) -> str:
    value = parse_config(config.decode("ascii"), where="kernel.config").get("CMDLINE", "")
    return value.removeprefix('"').removesuffix('"')


def _os_release(recipe: Recipe, version: str) -> str:
    # os-release(5); the stub shows none of it, but its bytes are measured into registers 9 and 11
    return f'ID=blindbuild\nNAME="blindbuild {recipe.name}"\nVERSION_ID="{version}"\n'


def _platform_identifier(firmware: LockedPackage) -> str:
    return f"qemu-q35-ovmf-{firmware.version.split('-')[0]}"


def _inputs(lock: Lock) -> Iterator[BuildInput]:
    for group, packages in lock.groups.items():
        for item in packages:
            yield BuildInput(f"debian/{group}/{item.name}@{item.version}", item.digest)
    for wheel in lock.wheels:
        yield BuildInput(f"pypi/{wheel.filename}", wheel.digest)
    for file in lock.files:
        yield BuildInput(f"file/{file.source}", file.digest)
