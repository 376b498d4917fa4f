import hashlib
from dataclasses import replace

import pytest

from blindbuild.assemble.rootfs import GateConf, InitConf, StaticNetwork, assemble_rootfs, render_listing
from blindbuild.assemble.tree import (
    Tree,
    device_entry,
    directory_entry,
    file_entry,
    from_files,
    symlink_entry,
)
from blindbuild.errors import BuildError, PolicyError

NETWORK = StaticNetwork("10.0.2.15", 24, "10.0.2.2")
INIT = InitConf(
    NETWORK, port=443, memory=256 << 20, seconds=30, concurrency=4, arguments=("/bin/hello", "--once")
)
GATE = GateConf(("/v1/hello",), 1048576, 1048576, seconds=30, concurrency=4)
FILTERS = dict.fromkeys(("socket-rule", "child", "init", "dhcp", "launcher", "workload", "gate"), b"filter")
WORKLOAD = from_files({b"bin/hello": b"program", b"share/text": b"text"}, executables=[b"bin/hello"])


def assemble(workload: Tree = WORKLOAD, init_conf: InitConf = INIT) -> Tree:
    programs = {"init": b"init", "gate": b"gate", "filters": FILTERS}
    return assemble_rootfs(**programs, init_conf=init_conf, gate_conf=GATE, workload=workload)


def test_the_image_holds_what_the_contract_lists() -> None:
    modes = {path.decode(): f"{entry.full_mode:07o}" for path, entry in assemble().items()}
    assert modes == {
        ".blindbuild.tree": "0100400",
        "aside": "0040500",
        "dev": "0040555",
        "dev/null": "0020666",
        "dev/urandom": "0020666",
        "dev/zero": "0020666",
        "etc": "0040555",
        "etc/blindbuild": "0040555",
        "etc/blindbuild/init.conf": "0100400",
        "filters": "0040555",
        "filters/child": "0100400",
        "filters/dhcp": "0100400",
        "filters/init": "0100400",
        "filters/launcher": "0100400",
        "filters/socket-rule": "0100400",
        "filters/workload": "0100400",
        "gate": "0040555",
        "gate/filter": "0100444",
        "gate/gate": "0100555",
        "gate/gate.json": "0100444",
        "init": "0100500",
        "workload": "0040555",
        "workload/bin": "0040555",
        "workload/bin/hello": "0100555",
        "workload/share": "0040555",
        "workload/share/text": "0100444",
        "~blindbuild.end": "0100400",
    }
    assert list(modes) == sorted(modes)


def test_modules_lie_beside_the_workload_and_are_in_the_listing() -> None:
    programs = {"init": b"init", "gate": b"gate", "filters": FILTERS}
    modules = {"00-failover.ko": b"first", "01-virtio_net.ko": b"second"}
    tree = assemble_rootfs(**programs, init_conf=INIT, gate_conf=GATE, workload=WORKLOAD, modules=modules)
    added = {path: entry for path, entry in tree.items() if path not in assemble()}
    assert {path.decode(): f"{entry.full_mode:07o}" for path, entry in added.items()} == {
        "modules": "0040555",
        "modules/00-failover.ko": "0100400",
        "modules/01-virtio_net.ko": "0100400",
    }
    assert b" modules/01-virtio_net.ko\n" in tree[b".blindbuild.tree"].data


def test_devices_have_the_numbers_of_linux() -> None:
    tree = assemble()
    assert [tree[path].device for path in (b"dev/null", b"dev/zero", b"dev/urandom")] == [
        (1, 3),
        (1, 5),
        (1, 9),
    ]


def test_the_sentinel_is_last_and_says_so() -> None:
    assert assemble()[b"~blindbuild.end"].data == b"blindbuild-end\n"


def test_the_listing_has_one_line_for_every_other_entry() -> None:
    tree = assemble()
    header, *lines = tree[b".blindbuild.tree"].data.decode().splitlines()
    assert header == f"blindbuild-tree 1 {len(tree) - 1}"
    assert [line.split()[-1].encode() for line in lines] == list(tree)[1:]


def test_a_line_of_the_listing_is_spelt_as_the_contract_says() -> None:
    tree = Tree(
        {
            b"d": directory_entry(),
            b"f": file_entry(b"abc", 0o500),
            b"l": symlink_entry(b"f"),
            b"n": device_entry(1, 3, 0o666),
        }
    )
    assert render_listing(tree).decode().splitlines() == [
        "blindbuild-tree 1 4",
        "d 0040555 0 0 0 - d",
        f"f 0100500 0 0 3 {hashlib.sha256(b'abc').hexdigest()} f",
        f"l 0120777 0 0 1 {hashlib.sha256(b'f').hexdigest()} l",
        "c 0020666 0 0 1:3 - n",
    ]


def test_init_conf_is_rendered_line_by_line() -> None:
    assert INIT.render() == (
        b"blindbuild-init 1\nnetwork static 10.0.2.15 24 10.0.2.2\nport 443\nmemory 268435456\nseconds 30\n"
        b"concurrency 4\narg /bin/hello\narg --once\nend\n"
    )
    assert b"\nnetwork dhcp\n" in replace(INIT, network=None).render()


def test_gate_json_is_rendered_as_in_the_contract() -> None:
    assert GATE.render() == (
        b'{"version":1,"profile":"tls-spki-quote-v1","routes":["/v1/hello"],"maxRequestBytes":1048576,'
        b'"maxResponseBytes":1048576,"seconds":30,"concurrency":4}'
    )
    assert b'"profile":"hpke-quote-v1"' in replace(GATE, profile="hpke-quote-v1").render()
    with pytest.raises(BuildError, match=r"gate\.json: expected tls-spki-quote-v1 or hpke-quote-v1"):
        replace(GATE, profile="hpke-quote-v2")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"port": 0}, "port: expected 1 to 65535"),
        ({"port": 65536}, "port: expected 1 to 65535"),
        ({"memory": 1}, "memory: expected"),
        ({"seconds": 0}, "seconds: expected"),
        ({"seconds": 86401}, "seconds: expected"),
        ({"concurrency": 0}, "concurrency: expected 1 to 16"),
        ({"concurrency": 17}, "concurrency: expected 1 to 16"),
        ({"arguments": ()}, "number of arguments"),
        ({"arguments": ("/x",) * 17}, "number of arguments"),
        ({"arguments": ("bin/x",)}, "absolute path"),
        ({"arguments": ("/x", "")}, "printable ASCII"),
        ({"arguments": ("/x", "a\nend")}, "printable ASCII"),
        ({"arguments": ("/x", "a\n")}, "printable ASCII"),
        ({"arguments": ("/x", "é")}, "printable ASCII"),
        ({"arguments": ("/x", "a" * 4096)}, "at most 4095 bytes"),
    ],
)
def test_settings_that_init_would_refuse_are_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(BuildError, match=reason):
        replace(INIT, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("address", "prefix", "router", "reason"),
    [
        ("10.0.2", 24, "10.0.2.2", "address: expected an IPv4 address"),
        ("10.0.2.015", 24, "10.0.2.2", "address: expected an IPv4 address"),
        ("10.0.2.15\n", 24, "10.0.2.2", "address: expected an IPv4 address"),
        ("::1", 24, "10.0.2.2", "address: expected an IPv4 address"),
        ("10.0.2.15", 24, "host", "router: expected an IPv4 address"),
        ("127.0.0.1", 8, "10.0.2.2", "address of one host"),
        ("0.1.2.3", 8, "10.0.2.2", "address of one host"),
        ("10.0.2.15", 24, "224.0.0.1", "address of one host"),
        ("10.0.2.15", 0, "10.0.2.2", "prefix length"),
        ("10.0.2.15", 33, "10.0.2.2", "prefix length"),
        ("10.0.2.2", 24, "10.0.2.2", "router other than"),
    ],
)
def test_an_address_that_init_would_refuse_is_refused(
    address: str, prefix: int, router: str, reason: str
) -> None:
    with pytest.raises(BuildError, match=reason):
        StaticNetwork(address, prefix, router)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"routes": ()}, "number of routes"),
        ({"routes": tuple(f"/v1/{i}" for i in range(17))}, "number of routes"),
        ({"routes": ("/v1/a", "/v1/a")}, "unique routes"),
        ({"routes": ("/v2/a",)}, "unique routes"),
        ({"routes": ("/v1/",)}, "unique routes"),
        ({"routes": ("/v1/A",)}, "unique routes"),
        ({"routes": ('/v1/"',)}, "unique routes"),
        ({"routes": ("/v1/a\n",)}, "unique routes"),
        ({"max_request_bytes": -1}, "maxRequestBytes"),
        ({"max_response_bytes": (256 << 20) + 1}, "maxResponseBytes"),
        ({"seconds": 0}, "seconds"),
        ({"concurrency": 17}, "concurrency"),
    ],
)
def test_settings_that_the_gate_would_refuse_are_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(BuildError, match=reason):
        replace(GATE, **changes)  # type: ignore[arg-type]


def test_init_and_gate_have_to_agree_on_the_number_of_requests() -> None:
    with pytest.raises(BuildError, match="up to 3 requests, the gate 4"):
        assemble(init_conf=replace(INIT, concurrency=3))


@pytest.mark.parametrize("missing", ["init", "gate"])
def test_an_empty_program_is_refused(missing: str) -> None:
    programs = {"init": b"init", "gate": b"gate"} | {missing: b""}
    with pytest.raises(BuildError, match="an empty one"):
        assemble_rootfs(**programs, filters=FILTERS, init_conf=INIT, gate_conf=GATE, workload=WORKLOAD)


@pytest.mark.parametrize("name", FILTERS)
def test_every_role_has_a_filter_and_nobody_else_has(name: str) -> None:
    rest = {other: data for other, data in FILTERS.items() if other != name}
    for filters in (rest, FILTERS | {name: b""}, FILTERS | {f"{name}2": b"filter"}):
        with pytest.raises(BuildError, match="expected a filter for each role"):
            assemble_rootfs(
                init=b"i", gate=b"g", filters=filters, init_conf=INIT, gate_conf=GATE, workload=WORKLOAD
            )


def test_a_workload_that_could_gain_rights_is_refused_with_every_path_and_reason() -> None:
    bad = Tree(
        {
            **WORKLOAD,
            b"bin/su": file_entry(b"", 0o4555),
            b"bin/wall": file_entry(b"", 0o2555),
            b"dev/mem": device_entry(1, 1, 0o400),
            b"etc/conf": file_entry(b"", 0o644),
            b"tmp": directory_entry(0o1777),
        }
    )
    with pytest.raises(PolicyError) as caught:
        assemble(bad)
    for expected in (
        "bin/su (a set-id or sticky bit, mode 4555)",
        "bin/wall (a set-id or sticky bit, mode 2555)",
        "dev/mem (a device node)",
        "etc/conf (a write bit, mode 0644)",
        "tmp (a set-id or sticky bit, mode 1777)",
        "tmp (a write bit, mode 1777)",
    ):
        assert expected in caught.value.message
    assert caught.value.hint is not None


@pytest.mark.parametrize(
    "workload",
    [
        Tree({}),
        from_files({b"bin/hello": b"not executable"}),
        Tree({b"bin/hello": directory_entry()}),
        Tree({b"bin/hello": symlink_entry(b"nowhere")}),
        Tree({b"bin/hello": file_entry(b"", 0o550)}),
    ],
)
def test_a_workload_without_its_program_is_refused(workload: Tree) -> None:
    with pytest.raises(PolicyError, match="an executable file /bin/hello"):
        assemble(workload)


def test_the_program_may_be_reached_through_links() -> None:
    tree = Tree({b"bin": symlink_entry(b"usr/bin"), b"usr/bin/hello": file_entry(b"x", 0o555)})
    assert b"workload/bin" in assemble(tree)
