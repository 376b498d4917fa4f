"""What `channels --probe` does: boot an image with bait around it, and two that are its controls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

from blindbuild import __version__
from blindbuild.audit.image import unpack_image
from blindbuild.cli.booting import BootOptions, configure_machine
from blindbuild.cli.naming import reading
from blindbuild.cli.outputs import LEDGER, PROBE, PROBE_ENVELOPE, STATEMENT, check_image
from blindbuild.cli.variants import build_variant
from blindbuild.client import Expectation
from blindbuild.digest import Digest
from blindbuild.errors import FormatError, UsageError
from blindbuild.formats.canonical import parse_json
from blindbuild.formats.fields import Fields
from blindbuild.host.clock import unix_time
from blindbuild.host.files import write_atomically
from blindbuild.host.reporter import Reporter
from blindbuild.host.store import Store
from blindbuild.machine.accelerator import Preference, choose_accelerator
from blindbuild.machine.config import MachineConfig
from blindbuild.machine.machine import Machine
from blindbuild.machine.probe.bait import missing_bait
from blindbuild.machine.probe.canary import Canary
from blindbuild.machine.probe.devices import qemu_version
from blindbuild.machine.probe.judge import Observations, judge_all
from blindbuild.machine.probe.observe import Observation
from blindbuild.machine.probe.run import IDLE_S, Subject, observe_machine
from blindbuild.manifest import Statement, parse_statement, parse_trust
from blindbuild.manifest.probe import PhaseReport, Probe, ProbedMachine, probe_bytes
from blindbuild.publish import (
    ReleaseSigner,
    TrustContent,
    generate_key,
    make_release,
    make_trust,
    sign_probe,
    sign_release,
    sign_statement,
)
from blindbuild.verify import Policy
from blindbuild.verify.session import SEALED_PROFILE

GATE_CONF, INIT_CONF = b"gate/gate.json", b"etc/blindbuild/init.conf"
VALID_S = 3600  # of the release that the probe makes for itself; a probe takes minutes
SHORT_IDLE_S = 2.0  # of the two control machines: they are there for what they do, not for what they leave
REPORTERS = ("gate", "launcher", "workload")
# Each ends its request in another way, or takes all there is; those that wait for the workload's deadline are
# left to the tests. Where nothing is confined, taking all there is would end more than the request.
CRASHES = {
    "product": (),
    "hostile": (*(b"segv", b"stack", b"abort", b"x32", b"int80"), *(b"fork", b"memory", b"short", b"silent")),
    "leaky": (b"segv", b"abort"),
}
MAX_ROUTES = 256  # a recipe has a few
_GATE_FIELDS = (
    "version",
    "profile",
    "routes",
    "maxRequestBytes",
    "maxResponseBytes",
    "seconds",
    "concurrency",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeOptions:
    """What may be chosen.

    Attributes:
        hostile: image directory of the variant `probe`, or None.
        control: image directory of the variant `leaky`, or None.
        recipe: where to build what is not given; None to go without.
        accelerator, memory_mib: of each machine.
    """

    hostile: Path | None = None
    control: Path | None = None
    recipe: Path | None = None
    accelerator: Preference = "auto"
    memory_mib: int = 256


@dataclass(frozen=True, slots=True)
class _Network:
    """Where the guest is; without a fixed address it asks for one."""

    port: int
    fixed: tuple[IPv4Interface, IPv4Address] | None

    def apply(self, config: MachineConfig) -> MachineConfig:
        """Return the machine for it."""
        config = replace(config, guest_port=self.port)
        if self.fixed is None:
            return config
        address, router = self.fixed
        return replace(config, guest_address=address, router=router)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """An image directory, read and checked."""

    place: Path
    statement: Statement
    statement_data: bytes
    uki: bytes
    ledger: bytes
    routes: tuple[str, ...]
    network: _Network


def probe_image(
    image: Path, options: ProbeOptions, *, store: Store, build_in: Path, reporter: Reporter
) -> Probe:
    """Run every machine there is an image for, and return what the checks have come to.

    Args:
        image: the directory of the image to be probed.
        options: see there.
        store: has the firmware, and everything that is to be built.
        build_in: where control images are built.
        reporter: told of each phase.

    Raises:
        UsageError: a directory that is none, or a control of another image.
        MachineError: a machine does not start or never answers.
        BlindbuildError: a control image cannot be built.
    """
    product = _load(image)
    options = _build_missing(product, options, store=store, build_in=build_in, reporter=reporter)
    hostile = _load_variant(options.hostile, product, "probe")
    leaky = _load_variant(options.control, product, "leaky")

    def observe(role: str, loaded: _Loaded, judged_by: _Loaded) -> Observation:
        return observe_machine(_subject(role, loaded, judged_by, options, store), reporter=reporter)

    seen = Observations(
        product=observe("product", product, product),
        hostile=None if hostile is None else observe("hostile", hostile, hostile),
        # judged by the product's statement: evidence of an image that leaks must be refused
        leaky=None if leaky is None else observe("leaky", leaky, product),
    )
    images = [("hostile", hostile), ("leaky", leaky)]
    return Probe(
        subject=(f"{product.statement.name}.efi", Digest.sha256(product.uki)),
        name=product.statement.name,
        version=product.statement.version,
        debug=product.statement.debug,
        statement=Digest.sha256(product.statement_data),
        ledger=Digest.sha256(product.ledger),
        tool=("blindbuild", __version__),
        machine=ProbedMachine(
            choose_accelerator(options.accelerator).name, qemu_version(), options.memory_mib
        ),
        images=tuple((role, Digest.sha256(loaded.uki)) for role, loaded in images if loaded is not None),
        phases=tuple(_phases(seen)),
        checks=judge_all(seen),
        not_looked_at=tuple(_not_looked_at(options)),
    )


def write_probe(probe: Probe, image: Path, *, key: ReleaseSigner | None) -> None:
    """Write probe.json into an image directory, and with a key the envelope over it; an older one goes.

    Raises:
        ManifestError: no reader would accept it.
        BlindbuildError: it cannot be written.
    """
    data = probe_bytes(probe)
    (image / PROBE_ENVELOPE).unlink(missing_ok=True)  # it would be of another run
    write_atomically(image / PROBE, data)
    if key is not None:
        write_atomically(image / PROBE_ENVELOPE, sign_probe(key, data))


def _phases(seen: Observations) -> Iterator[PhaseReport]:
    for role, machine in (("product", seen.product), ("hostile", seen.hostile), ("leaky", seen.leaky)):
        for phase, seconds in machine.phases if machine is not None else ():
            yield PhaseReport(role, phase.value, round(seconds * 1000))


def _not_looked_at(options: ProbeOptions) -> Iterator[tuple[str, str]]:
    yield from missing_bait()
    if choose_accelerator(options.accelerator).name == "tcg":
        yield "the same under KVM", choose_accelerator(options.accelerator).reason
    yield "timing, caches and power", "no check of this tool measures them"


def _load(image: Path) -> _Loaded:
    files = check_image(image)
    statement = parse_statement(files[STATEMENT])
    uki = files[f"{statement.name}.efi"]
    with reading(image / f"{statement.name}.efi"):
        entries = {entry.path: entry.data for entry in unpack_image(uki).entries}
        for name in (GATE_CONF, INIT_CONF):
            if name not in entries:
                raise FormatError(f"expected a file {name.decode()} in the initramfs, got none")
        routes, network = _read_routes(entries[GATE_CONF]), _read_network(entries[INIT_CONF])
    return _Loaded(image, statement, files[STATEMENT], uki, files[LEDGER], routes, network)


def _read_routes(data: bytes) -> tuple[str, ...]:
    """Return the recipe's paths (docs/spec/guest-abi.md, "gate.json")."""
    fields = Fields(parse_json(data), "gate.json", required=_GATE_FIELDS)
    return fields.texts("routes", minimum=1, maximum=MAX_ROUTES)


def _read_network(data: bytes) -> _Network:
    """Return where the guest is (docs/spec/guest-abi.md, "init.conf")."""
    lines = [line.split(" ") for line in data.decode("ascii", "replace").splitlines()]
    found = {words[0]: words[1:] for words in lines if len(words) > 1}
    try:
        port, (kind, *fixed) = int(found["port"][0]), found["network"]
        if kind != "static":
            return _Network(port, None)
        address, prefix, router = fixed
        return _Network(port, (IPv4Interface(f"{address}/{prefix}"), IPv4Address(router)))
    except (KeyError, ValueError) as error:
        raise FormatError("init.conf: expected a network and a port") from error


def _load_variant(place: Path | None, product: _Loaded, variant: str) -> _Loaded | None:
    if place is None:
        return None
    loaded = _load(place)
    said = (loaded.statement.name, loaded.statement.version)
    expected = (product.statement.name, f"{product.statement.version}+{variant}")
    if said != expected:
        raise UsageError(
            f"{place}: expected the image of {' '.join(expected)}, got {' '.join(said)}",
            hint="or name the --recipe, and both control images are built from it",
        )
    return loaded


def _build_missing(
    product: _Loaded, options: ProbeOptions, *, store: Store, build_in: Path, reporter: Reporter
) -> ProbeOptions:
    if options.recipe is None:
        return options
    recipe = options.recipe

    def build(given: Path | None, variant: str) -> Path:
        if given is not None:
            return given
        return build_variant(
            variant, recipe, beside=product.statement, store=store, build_in=build_in, reporter=reporter
        )

    return replace(options, hostile=build(options.hostile, "probe"), control=build(options.control, "leaky"))


def _subject(role: str, loaded: _Loaded, judged_by: _Loaded, options: ProbeOptions, store: Store) -> Subject:
    boot = BootOptions(memory_mib=options.memory_mib, accelerator=options.accelerator)
    config = loaded.network.apply(configure_machine(loaded.place, store=store, options=boot))
    hostile = role != "product"
    return Subject(
        role=role,
        image=Digest.sha256(loaded.uki),
        config=config,
        expect=_expectation(judged_by),
        route=loaded.routes[0],
        sealed=loaded.statement.channel_binding == SEALED_PROFILE,
        canary=Canary.fresh(),
        asks_dhcp=loaded.network.fixed is None,
        reporters=REPORTERS if hostile else (),
        crash=CRASHES[role],
        scan=role != "hostile",  # what its confinement lets out is captured; its neighbours see no other host
        idle_s=SHORT_IDLE_S if hostile else IDLE_S,
    )


def _expectation(loaded: _Loaded) -> Callable[[Machine], Expectation]:
    """Return what a client would judge by, had this statement been signed and this TPM's maker trusted."""
    key, now = generate_key(), unix_time()
    envelope = sign_statement(key, loaded.statement_data)
    release = sign_release(
        key, make_release(loaded.statement_data, valid_from=now, valid_until=now + VALID_S)
    )

    def expect(machine: Machine) -> Expectation:
        content = TrustContent(
            product=loaded.statement.name,
            release_keys=(key.public,),
            test_tpm_roots=(machine.authority.root_certificate.decode("ascii"),),
            test_tpm_intermediates=(machine.authority.issuer_certificate.decode("ascii"),),
        )
        return Expectation(
            envelope=envelope,
            release=release,
            trust=parse_trust(make_trust(content)),
            policy=Policy(allow_test_tpm=True, allow_debug=True),
        )

    return expect
