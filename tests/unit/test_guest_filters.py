"""The system call filters, evaluated for every number and for every argument value that they look at."""

from __future__ import annotations

import functools
import itertools
import struct
from collections.abc import Mapping

import pytest

from tests.fakes.bpf import (
    ALLOW,
    ARCH_I386,
    ARCH_X86_64,
    EPERM,
    ERRNO,
    KILL,
    Instruction,
    evaluate,
    parse_program,
)
from tests.fakes.guest_filters import made_filters
from tests.fakes.system_calls import LAST_OF_6_12, name_of, numbers
from tests.golden import guest_filters

X32 = 0x40000000
FILTERS = ("socket-rule", "child", "init", "dhcp", "launcher", "workload", "gate")
MAX_LENGTH = 1023  # instructions that init has room for
NAMES = {ALLOW: "ALLOW", KILL: "KILL", ERRNO | EPERM: "EPERM", ERRNO | 38: "ENOSYS"}
GOLDEN: Mapping[str, tuple[Mapping[str, tuple[str, str]], str]] = {
    "socket-rule": (guest_filters.SOCKETS, "ALLOW"),
    "child": (guest_filters.CHILD, "ALLOW"),
    "init": (guest_filters.INIT, "KILL"),
    "dhcp": (guest_filters.DHCP, "KILL"),
    "launcher": (guest_filters.LAUNCHER, "EPERM"),
    "workload": (guest_filters.WORKLOAD, "EPERM"),
    "gate": (guest_filters.GATE, "KILL"),
}
AF_UNIX, AF_INET, AF_UNSPEC, AF_NETLINK = 1, 2, 0, 16
FAST_OPEN = 0x20000000
SIGKILL, SIGCHLD = 9, 17


@functools.cache
def program(name: str) -> tuple[Instruction, ...]:
    return parse_program(made_filters()[name])


def answer(name: str, call: str, *arguments: int) -> str:
    return NAMES[evaluate(program(name), numbers()[call], arguments)]


def blocks(name: str) -> dict[int, list[Instruction]]:
    """Return the instructions that belong to each number: from its test to the next load of the number."""
    found: dict[int, list[Instruction]] = {}
    number = None
    for step in program(name):
        if step.code == 0x20 and step.value in (0, 4):
            number = None
        elif step.code == 0x15 and number is None:
            number = step.value
        if number is not None:
            found.setdefault(number, []).append(step)
    return found


def interesting(steps: list[Instruction]) -> dict[int, set[int]]:
    """Return, by argument, values on both sides of every comparison, in both halves."""
    values: dict[int, set[int]] = {}
    for load, test in itertools.pairwise(steps):
        if load.code == 0x20:
            argument, shift = (load.value - 16) // 8, (load.value - 16) % 8 * 8
            around = {0, test.value, test.value ^ 1, test.value | 1 << 31, (1 << 32) - 1}
            values.setdefault(argument, set()).update(value << shift for value in around)
    # Halves of one argument are compared one after the other, so combine them.
    return {a: {x | y for x in set_ for y in set_} | {0, 2**64 - 1} for a, set_ in values.items()}


def outcomes(name: str, number: int) -> set[str]:
    values = interesting(blocks(name).get(number, []))
    chosen = [sorted(values.get(argument, {0})) for argument in range(6)]
    return {NAMES[evaluate(program(name), number, arguments)] for arguments in itertools.product(*chosen)}


@pytest.mark.parametrize("name", FILTERS)
def test_every_number_gets_the_answer_that_is_written_down(name: str) -> None:
    golden, default = GOLDEN[name]
    actual = {number: "|".join(sorted(outcomes(name, number))) for number in range(1024)}
    expected = {
        number: golden[name_of(number)][0] if name_of(number) in golden else default
        for number in range(LAST_OF_6_12 + 1)
    }
    unknown = "KILL" if default == "KILL" else "ENOSYS"
    expected |= dict.fromkeys(range(LAST_OF_6_12 + 1, 1024), unknown)
    assert {name_of(n): a for n, a in actual.items() if a != expected[n]} == {}


@pytest.mark.parametrize("probe", [False, True])
def test_the_c_library_of_the_product_gives_the_same_filters(probe: bool) -> None:
    assert made_filters(compiler="musl-gcc", probe=probe) == made_filters(probe=probe)


def test_the_probe_s_gate_is_refused_what_kills_the_product_s_and_nothing_else_differs() -> None:
    product, probe = made_filters(), made_filters(probe=True)
    assert {name for name in product if product[name] != probe[name]} == {"gate"}
    lenient = parse_program(probe["gate"])
    assert {
        (NAMES[evaluate(program("gate"), number)], NAMES[evaluate(lenient, number)])
        for number in range(LAST_OF_6_12 + 1)
    } == {("ALLOW", "ALLOW"), ("KILL", "EPERM")}


@pytest.mark.parametrize("name", FILTERS)
def test_the_golden_list_names_real_calls_and_gives_reasons(name: str) -> None:
    golden, _ = GOLDEN[name]
    assert set(golden) <= set(numbers())
    assert all(reason for _, reason in golden.values())


@pytest.mark.parametrize("name", FILTERS)
def test_other_architectures_and_x32_are_killed_for_every_number(name: str) -> None:
    for number in range(1024):
        assert evaluate(program(name), number, arch=ARCH_I386) == KILL
        assert evaluate(program(name), number, arch=ARCH_X86_64 ^ 1) == KILL
        assert evaluate(program(name), X32 | number) == KILL
        assert evaluate(program(name), 1 << 31 | number) == KILL


@pytest.mark.parametrize("name", FILTERS)
def test_the_programs_are_ones_the_kernel_takes(name: str) -> None:
    steps = program(name)
    assert 0 < len(steps) <= MAX_LENGTH
    assert steps[-1].code == 0x06
    for at, step in enumerate(steps):
        assert step.code in (0x06, 0x15, 0x20, 0x25, 0x35, 0x45)
        assert step.code not in (0x15, 0x25, 0x35, 0x45) or at + 1 + max(step.if_true, step.if_false) < len(
            steps
        )


def test_init_leaves_every_descendant_without_a_way_to_a_socket() -> None:
    for name in ("socket-rule", "launcher", "workload", "init"):
        refused = ("EPERM", "KILL")
        assert answer(name, "socket", AF_INET, 1, 0) in refused
        assert answer(name, "connect", 3, 0, 16) in refused
        assert answer(name, "bind", 3, 0, 16) in refused
        assert answer(name, "listen", 3, 1) in refused
        for family in (AF_UNSPEC, AF_INET, 10, AF_NETLINK, 17, 40, AF_UNIX | 1 << 32):
            assert answer(name, "socketpair", family, 1, 0, 0) in refused


def test_a_message_has_no_address_and_opens_no_connection() -> None:
    for name in ("socket-rule", "launcher", "workload"):
        assert answer(name, "sendto", 3, 0, 1, 0, 0, 0) == "ALLOW"
        for address in (1, 1 << 32, 0x7FFF12345678):
            assert answer(name, "sendto", 3, 0, 1, 0, address, 16) == "EPERM"
    assert answer("socket-rule", "sendto", 3, 0, 1, FAST_OPEN, 0, 0) == "EPERM"
    assert answer("socket-rule", "sendto", 3, 0, 1, FAST_OPEN | 0x4000, 0, 0) == "EPERM"
    assert answer("socket-rule", "sendmsg", 3, 0, FAST_OPEN) == "EPERM"
    assert answer("socket-rule", "sendmsg", 3, 0, 0x4000) == "ALLOW"
    assert answer("workload", "sendmsg", 3, 0, 0) == "EPERM"


@pytest.mark.parametrize(
    ("level", "option"),
    [
        (6, 19),  # TCP_REPAIR
        (6, 31),  # TCP_ULP
        (6, 23),  # TCP_FASTOPEN
        (6, 30),  # TCP_FASTOPEN_CONNECT
        (6, 13),  # TCP_CONGESTION
        (1, 25),  # SO_BINDTODEVICE
        (1, 62),  # SO_BINDTOIFINDEX
        (1, 36),  # SO_MARK
        (1, 26),  # SO_ATTACH_FILTER
        (1, 1),  # what is TCP_NODELAY on the other level
        (0, 1),
        (0, 32),  # IP_MULTICAST_IF
        (0, 35),  # IP_ADD_MEMBERSHIP
        (0, 50),  # IP_UNICAST_IF
        (0, 4),  # IP_OPTIONS
        (17, 1),  # UDP_CORK
        (41, 1),
        (6 | 1 << 32, 1),
    ],
)
def test_a_socket_option_that_could_redirect_traffic_is_refused(level: int, option: int) -> None:
    assert answer("socket-rule", "setsockopt", 3, level, option) == "EPERM"


def test_the_socket_options_a_server_sets_are_allowed() -> None:
    for level, option in ((6, 1), (6, 4), (6, 5), (6, 6), (1, 9), (1, 7), (1, 8), (1, 13)):
        assert answer("socket-rule", "setsockopt", 3, level, option) == "ALLOW"


def test_no_descendant_makes_a_namespace() -> None:
    for flag in (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert answer("socket-rule", "clone", flag | SIGCHLD) == "EPERM"
    assert answer("socket-rule", "clone", 0x3D0F00) == "ALLOW"  # what musl and glibc pass for a thread


def test_a_workload_makes_threads_and_no_process() -> None:
    assert answer("workload", "clone", 0x3D0F00) == "ALLOW"
    assert answer("workload", "clone", 0x50F00) == "ALLOW"  # Go's
    for flags in (SIGCHLD, 0x4000 | SIGCHLD, 0x4100 | SIGCHLD, 0x01200011, 0):
        assert answer("workload", "clone", flags) == "EPERM"
    for call in ("fork", "vfork"):
        assert answer("workload", call) == "EPERM"
        assert answer("launcher", call) == "EPERM"
    assert answer("launcher", "clone", 0x4000 | SIGCHLD) == "ALLOW"
    assert answer("launcher", "clone", SIGCHLD) == "EPERM"


def test_a_program_is_started_only_by_the_path_in_page_0() -> None:
    for name in ("workload", "launcher"):
        assert answer(name, "execve", 64, 0, 0) == "ALLOW"
        for address in (0, 63, 65, 4096, 64 | 1 << 32, 0x7FFF00000040):
            assert answer(name, "execve", address, 0, 0) == "EPERM"
        assert answer(name, "execveat", 64, 64, 0, 0, 0x1000) == "EPERM"


def test_files_are_opened_for_reading_only() -> None:
    write_only, read_write, create, truncate, temporary, append = 1, 2, 0o100, 0o1000, 0o20200000, 0o2000
    cloexec, directory, nonblock = 0o2000000, 0o200000, 0o4000
    for flags in (0, cloexec, directory | cloexec, nonblock):
        assert answer("workload", "openat", 0, 0, flags) == "ALLOW"
        assert answer("workload", "open", 0, flags) == "ALLOW"
    for flags in (write_only, read_write, 3, create, truncate, temporary, append | write_only):
        assert answer("workload", "openat", 0, 0, flags | cloexec) == "EPERM"
        assert answer("workload", "open", 0, flags | 1 << 32) == "EPERM"
    for call in (
        "creat",
        "openat2",
        "mkdir",
        "unlink",
        "rename",
        "truncate",
        "ftruncate",
        "memfd_create",
        "chmod",
    ):
        assert answer("workload", call) == "EPERM"


def test_the_launcher_kills_by_uid_and_in_no_other_way() -> None:
    everybody = 2**64 - 1
    assert answer("launcher", "kill", everybody, SIGKILL) == "ALLOW"
    for process, signal in (
        (1, SIGKILL),
        (everybody, 0),
        (everybody, 15),
        (0, SIGKILL),
        (0xFFFFFFFF, SIGKILL),
    ):
        assert answer("launcher", "kill", process, signal) == "EPERM"
    assert answer("workload", "kill", everybody, SIGKILL) == "EPERM"


def test_a_limit_is_read_and_never_set_by_a_workload() -> None:
    assert answer("workload", "prlimit64", 0, 7, 0, 1234) == "ALLOW"
    assert answer("workload", "prlimit64", 0, 7, 1234, 0) == "EPERM"
    assert answer("workload", "setrlimit", 7, 1234) == "EPERM"


def test_the_dhcp_child_sends_where_its_socket_is_connected_to_only() -> None:
    assert answer("dhcp", "sendto", 4, 0, 300, 0, 0, 0) == "ALLOW"
    for address in (1, 64, 1 << 32, 0x7FFF12345678):
        assert answer("dhcp", "sendto", 4, 0, 300, 0, address, 16) == "KILL"
    assert answer("dhcp", "sendto", 4, 0, 300, FAST_OPEN, 0, 0) == "KILL"
    for call in ("mmap", "connect", "socket", "sendmsg", "openat", "execve", "clone"):
        assert answer("dhcp", call) == "KILL"


@pytest.mark.parametrize(
    ("call", "right", "wrong"),
    [
        ("accept4", (3,), [(4,), (0,), (3 | 1 << 32,)]),
        ("shutdown", (77, 1), [(3, 0), (3, 2)]),
        ("recvmsg", (6,), [(7,), (3,)]),
        ("fcntl", (9, 3), [(9, 0), (9, 8), (9, 1024)]),  # F_DUPFD, F_SETOWN, F_SETLEASE
        ("mmap", (0, 4096, 3, 0x22), [(0, 4096, 5, 0x22), (0, 4096, 4, 0x22), (0, 4096, 1, 0x02)]),
        ("clone", (0xD0F00,), [(17,), (0xD0F00 | 1 << 28,), (0x50F00,)]),
        ("tgkill", (4321, 1, 23), [(4321, 4321, 9), (1, 1, 0)]),
    ],
)
def test_the_gate_s_narrowed_calls_need_their_arguments(
    call: str, right: tuple[int, ...], wrong: list[tuple[int, ...]]
) -> None:
    assert answer("gate", call, *right) == "ALLOW"
    assert {answer("gate", call, *arguments) for arguments in wrong} == {"KILL"}


def test_the_oracle_itself_answers_as_the_kernel_documents() -> None:
    sample = struct.pack("<HBBI", 0x20, 0, 0, 4) + struct.pack("<HBBI", 0x06, 0, 0, ALLOW)
    assert evaluate(parse_program(sample), 1) == ALLOW
    with pytest.raises(ValueError, match="unexpected instruction"):
        evaluate((Instruction(0x04, 0, 0, 1),), 1)
