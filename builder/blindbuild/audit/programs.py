"""What the programs in an image ask their system for: imports of ELF files, and words that tell of habits."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from blindbuild.audit.check import Check
from blindbuild.audit.elf import MAGIC, ElfFile, read_elf
from blindbuild.audit.files import RECIPE_PREFIX, WAIVABLE, why_in
from blindbuild.audit.image import UnpackedImage, Waiver
from blindbuild.errors import FormatError

# By what they would open; a recipe may waive one for a file, and names the control that stops it anyway.
FORBIDDEN_IMPORTS = {
    "network": (
        *("socket", "connect", "bind", "listen", "accept", "accept4", "sendto", "sendmsg", "sendmmsg"),
        *("__connect", "__send"),
        *("getaddrinfo", "gethostbyname", "gethostbyname_r", "res_query", "res_nquery"),
    ),
    "programs": (
        *("execve", "execv", "execvp", "execvpe", "execl", "execlp", "execle", "fexecve", "posix_spawn"),
        *("posix_spawnp", "system", "popen", "_IO_popen", "fork", "__fork", "vfork", "__vfork", "wordexp"),
    ),
    "logs": ("syslog", "vsyslog", "openlog", "__syslog_chk", "__vsyslog_chk"),
    "code": ("dlopen", "dlmopen", "__libc_dlopen_mode"),
    "others": (
        *("ptrace", "process_vm_readv", "process_vm_writev", "shm_open", "mq_open", "mount"),
        *("io_uring_setup", "syscall"),  # the last can be any of the others
    ),
}
KEY_LOG_WORDS = (b"SSLKEYLOGFILE", b"SSL_CTX_set_keylog_callback")
STATIC_PROGRAMS = ("init", "gate/gate")
# Informative: a word shows no channel, and a program may speak without one (onnxruntime names no collector).
HABITS = re.compile(
    rb"169\.254\.169\.254|168\.63\.129\.16|fd00:ec2::254|metadata\.google\.internal"  # metadata services
    rb"|/etc/resolv\.conf|/etc/nsswitch\.conf|_nss_dns_|pool\.ntp\.org|time\.(?:google|windows|apple)\.com"
    rb"|/dev/log\b|SSLKEYLOGFILE|HTTPS?_PROXY"
    rb"|ORT_DISABLE_TELEMETRY|VLLM_NO_USAGE_STATS|DO_NOT_TRACK|HF_HUB_(?:OFFLINE|DISABLE_TELEMETRY)|TRANSFORMERS_OFFLINE"
)


@dataclass(frozen=True, slots=True)
class Program:
    """An ELF file of the image; `elf` is None if it cannot be read."""

    path: str
    data: bytes
    elf: ElfFile | None


def read_programs(image: UnpackedImage) -> tuple[Program, ...]:
    """Return every ELF file of an image."""
    return tuple(_read_programs(image))


def check_static(image: UnpackedImage, programs: Sequence[Program]) -> Check:
    """Check that init and gate are static: nothing else is loaded into them."""
    elves = {program.path: program.elf for program in programs}
    findings = [f"{path}: no ELF file" for path in STATIC_PROGRAMS if path not in elves]
    findings += [
        f"{path}: expected a static program"
        for path in STATIC_PROGRAMS
        if path in elves and ((elf := elves[path]) is None or not elf.is_static)
    ]
    return Check("static-programs", image.archive, len(STATIC_PROGRAMS), tuple(findings))


def check_imports(image: UnpackedImage, programs: Sequence[Program], waivers: Sequence[Waiver]) -> Check:
    """Check what dynamic files import; about static ones imports say nothing, and the ledger says so."""
    excused = {(waiver.path, waiver.what) for waiver in waivers}
    findings = []
    for program in programs:
        if program.elf is None:
            findings.append(f"{program.path}: an ELF file that cannot be read")
            continue
        wanted = set(program.elf.imports)
        findings += [
            f"{program.path}: imports {name} ({kind})"
            for kind, names in FORBIDDEN_IMPORTS.items()
            for name in names
            if name in wanted and (program.path, name) not in excused
        ]
    return Check("elf-imports", image.archive, len(programs), tuple(findings))


def check_waivers(image: UnpackedImage, programs: Sequence[Program], waivers: Sequence[Waiver]) -> Check:
    """Check that every waiver is about something that is there and is the recipe's own."""
    imports = {(program.path, name) for program in programs if program.elf for name in program.elf.imports}
    paths = {entry.path.decode("ascii", "backslashreplace") for entry in image.entries}
    findings = []
    for waiver in waivers:
        held = waiver.path in paths if waiver.what in WAIVABLE else (waiver.path, waiver.what) in imports
        if not (held and waiver.path.startswith(RECIPE_PREFIX) and waiver.control):
            findings.append(f"{waiver.path}: a waiver of {waiver.what} that waives nothing")
    return Check("waivers", image.archive, len(waivers), tuple(findings))


def check_key_log(image: UnpackedImage, programs: Sequence[Program]) -> Check:
    """Check that the gate, which ends TLS, has no words for writing session keys into a file."""
    gates = [program for program in programs if why_in(program.path) == "gate"]
    findings = [
        f"{gate.path}: has {word.decode()}" for gate in gates for word in KEY_LOG_WORDS if word in gate.data
    ]
    if not gates:
        findings.append("there is no gate to look at")
    return Check("key-log", image.archive, len(gates), tuple(findings))


def find_habits(image: UnpackedImage) -> dict[str, list[str]]:
    """Return, by path, the words of metadata services, name and time services and telemetry in a file."""
    found = {}
    for entry in image.entries:
        if stat.S_ISREG(entry.mode) and (words := {bytes(word) for word in HABITS.findall(entry.data)}):
            found[entry.path.decode("ascii", "backslashreplace")] = sorted(
                word.decode("ascii") for word in words
            )
    return found


def _read_programs(image: UnpackedImage) -> Iterator[Program]:
    for entry in image.entries:
        if not (stat.S_ISREG(entry.mode) and entry.data.startswith(MAGIC)):
            continue
        try:
            elf = read_elf(entry.data)
        except FormatError:
            elf = None
        yield Program(entry.path.decode("ascii", "backslashreplace"), entry.data, elf)
