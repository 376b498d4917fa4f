"""What is put beside a UKI, and which of its sections count: each rule on a small image, hashed by hand."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace

import pytest

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import MeasureError, PeError
from blindbuild.formats.authenticode import authenticode_digests
from blindbuild.formats.tcgevent import EventType
from blindbuild.measure.command_line import decode_command_line
from blindbuild.measure.event import measured_event
from blindbuild.measure.pcr11 import predict_pcr11
from blindbuild.measure.pcr12 import order_stub_events
from blindbuild.measure.stub_inputs import Addon, NamedFiles, StubInputs
from blindbuild.measure.uki import MeasuredUki, measure_uki
from tests.fakes.pe_image import FakeSection, make_pe

SHA256 = HashAlgorithm.SHA256
KERNEL = make_pe((FakeSection(b".text", b"kernel"),))
BASE = {".osrel": b"ID=x\n", ".cmdline": b"console=ttyS0", ".initrd": b"initrd", ".linux": KERNEL}


def image(*sections: tuple[str, bytes]) -> bytes:
    """Return a PE image of these sections in this order."""
    return make_pe([FakeSection(name.encode(), data) for name, data in sections], size_of_headers=2048)


def uki(version: int, *more: tuple[str, bytes], without: tuple[str, ...] = ()) -> bytes:
    """Return a UKI of a version of the stub with more sections at its end."""
    magic = f"#### LoaderInfo: systemd-stub {version} ####".encode()
    base = [(name, data) for name, data in BASE.items() if name not in without]
    return image((".sdmagic", magic), *base, *more)


def measured(data: bytes, inputs: StubInputs | None = None, version: int | None = None) -> MeasuredUki:
    return measure_uki(data, (SHA256,), inputs=inputs, stub_version=version)


def sha256(data: bytes) -> Digest:
    return Digest(SHA256, hashlib.sha256(data).digest())


def utf16(text: str) -> bytes:
    return text.encode("utf-16-le") + b"\0\0"


def options(result: MeasuredUki) -> str:
    """The command line that the kernel gets."""
    return result.load_options.decode("utf-16-le").removesuffix("\0")


def register12(result: MeasuredUki) -> list[bytes]:
    return [event.digests[SHA256].value for event in result.pcr12]


def tagged(tag: int, text: str) -> bytes:
    return struct.pack("<II", tag, len(utf16(text))) + utf16(text)


def newc(inode: int, mode: int, name: str, data: bytes = b"") -> bytes:
    """Write one cpio entry as a tool of its own would."""
    head = (
        f"070701{inode:08x}{mode:08x}{0:016x}{1:08x}{0:08x}{len(data):08x}{0:032x}{len(name) + 1:08x}{0:08x}"
    )
    entry = head.encode() + name.encode() + b"\0"
    entry += bytes(-len(entry) % 4)
    return entry + data + bytes(-len(data) % 4)


TRAILER = b"070701" + b"0" * 32 + b"00000001" + b"0" * 48 + b"0000000B00000000TRAILER!!!\0\0\0\0"


def extra(name: str, data: bytes) -> bytes:
    return newc(1, 0o040555, ".extra") + newc(2, 0o100444, f".extra/{name}", data) + TRAILER


def pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


@pytest.mark.parametrize("version", [252, 254, 256])
def test_before_257_the_last_of_two_sections_counts(version: int) -> None:
    result = measured(uki(version, (".osrel", b"ID=second")))
    assert result.sections[".osrel"][SHA256] == sha256(b"ID=second")


@pytest.mark.parametrize("version", [257, 258, 262])
def test_since_257_the_first_of_two_sections_counts(version: int) -> None:
    result = measured(uki(version, (".osrel", b"ID=second")))
    assert result.sections[".osrel"][SHA256] == sha256(b"ID=x\n")


def test_before_257_an_empty_last_section_hides_the_one_before() -> None:
    assert ".osrel" not in measured(uki(252, (".osrel", b""))).sections
    assert ".osrel" in measured(uki(257, (".osrel", b""))).sections


@pytest.mark.parametrize("version", [252, 256])
def test_before_257_a_longer_name_is_taken_for_a_known_one_and_refused(version: int) -> None:
    with pytest.raises(MeasureError, match=rf"section \.linux2: systemd-stub {version} takes it for \.linux"):
        measured(uki(version, (".linux2", b"x")))
    assert ".linux2" not in measured(uki(257, (".linux2", b"x"))).sections


def test_sections_that_no_stub_looks_at_are_not_measured_by_name() -> None:
    strange = ((".rdata", b"1"), (".xdata", b"2"), (".buildid", b"3"), (".note", b"4"))
    plain, more = measured(uki(257)), measured(uki(257, *strange))
    assert more.sections == plain.sections
    assert more.authenticode != plain.authenticode


PROFILES = (
    (".profile", b"ID=main"),
    (".profile", b"ID=debug"),
    (".cmdline", b"debug"),
    (".osrel", b""),
    (".profile", b"ID=third"),
)


def test_a_profile_overrides_and_hides_sections_of_the_base() -> None:
    plain = measured(uki(257, *PROFILES))
    assert plain.sections[".profile"][SHA256] == sha256(b"ID=main")
    assert (options(plain), plain.pcr12) == ("console=ttyS0", ())
    debug = measured(uki(257, *PROFILES), StubInputs(profile=1))
    assert debug.sections[".profile"][SHA256] == sha256(b"ID=debug")
    assert debug.sections[".cmdline"][SHA256] == sha256(b"debug")
    assert ".osrel" not in debug.sections
    assert options(debug) == "debug"
    assert debug.initrd == {SHA256: sha256(pad(b"initrd") + extra("profile", b"ID=debug"))}


def test_the_number_of_another_profile_than_the_first_is_an_event_of_register_12() -> None:
    (event,) = measured(uki(257, *PROFILES), StubInputs(profile=2)).pcr12
    assert event.digests[SHA256] == sha256(utf16("2"))
    assert event.data == tagged(0x13AED6DB, "2")
    assert int(event.event_type) == 6


def test_the_initrd_has_os_release_before_the_profile() -> None:
    result = measured(uki(257, (".profile", b"ID=main")))
    expected = pad(b"initrd") + extra("os-release", b"ID=x\n") + extra("profile", b"ID=main")
    assert result.initrd == {SHA256: sha256(expected)}


def test_in_the_log_the_profile_comes_first_and_extensions_before_payloads_of_addons() -> None:
    one = Addon(name="a.addon.efi", image=addon((".initrd", b"more")))
    inputs = StubInputs(profile=1, sysexts=(("s.raw", b"s"),), smbios_command_line="x", addons=(one,))
    result = measured(uki(257, *PROFILES), inputs)
    sections = predict_pcr11(result.sections, result.rules)
    ordered = order_stub_events(sections, result.pcr12, result.pcr13)
    profile, smbios, payload = result.pcr12
    assert ordered == (profile, *sections, smbios, *result.pcr13, payload)


def test_in_the_log_addons_are_loaded_after_load_options_and_before_other_command_lines() -> None:
    one = Addon(name="a.addon.efi", image=addon((".cmdline", b"more")))
    inputs = StubInputs(profile=1, load_options="given", smbios_command_line="x", addons=(one,))
    result = measured(uki(257, *PROFILES), inputs)
    sections = predict_pcr11(result.sections, result.rules)
    loaded = (measured_event(4, EventType.EV_EFI_BOOT_SERVICES_APPLICATION, b"", "", algorithms=[SHA256]),)
    profile, given, addons, smbios = result.pcr12
    ordered = order_stub_events(sections, result.pcr12, (), loaded)
    assert ordered == (profile, *sections, given, *loaded, addons, smbios)


@pytest.mark.parametrize(
    ("version", "profile", "reason"),
    [
        (257, 3, "expected a profile from 0 to 2, got 3"),
        (257, -1, "expected a profile from 0 to 2, got -1"),
        (256, 1, "systemd-stub 256 has no profiles, got number 1"),
    ],
)
def test_a_profile_that_is_not_there_is_refused(version: int, profile: int, reason: str) -> None:
    with pytest.raises(MeasureError, match=reason):
        measured(uki(version, *PROFILES), StubInputs(profile=profile))


def test_a_uki_without_profiles_has_the_first_one() -> None:
    with pytest.raises(MeasureError, match="expected a profile from 0 to 0, got 1"):
        measured(uki(257), StubInputs(profile=1))


TREES = ((".hwids", b"ids"), (".dtbauto", b"tree1"), (".dtbauto", b"tree2"))


@pytest.mark.parametrize(("number", "expected"), [(0, None), (1, b"tree1"), (2, b"tree2")])
def test_the_device_tree_that_is_stated_to_match_is_measured(number: int, expected: bytes | None) -> None:
    result = measured(uki(257, *TREES), StubInputs(device_tree=number))
    assert result.sections[".hwids"][SHA256] == sha256(b"ids")
    assert result.sections.get(".dtbauto", {}).get(SHA256) == (expected and sha256(expected))


def test_a_device_tree_of_another_number_is_refused() -> None:
    with pytest.raises(MeasureError, match=r"section \.dtbauto: expected a number from 0 to 2, got 3"):
        measured(uki(257, *TREES), StubInputs(device_tree=3))


def test_firmware_is_not_looked_at_by_257_and_has_to_be_stated_for_258() -> None:
    firmware = (".efifw", b"firmware")
    assert ".efifw" not in measured(uki(257, firmware)).sections
    with pytest.raises(MeasureError, match=r"section \.efifw: what is measured of it depends on the machine"):
        measured(uki(258, firmware))
    taken = measured(uki(258, firmware), StubInputs(firmware_image=1))
    assert taken.sections[".efifw"][SHA256] == sha256(b"firmware")


def test_the_version_can_be_stated_for_an_image_that_does_not_say_it() -> None:
    data = image(*BASE.items())
    with pytest.raises(MeasureError, match=r"expected a UKI with a section \.sdmagic, got none") as caught:
        measured(data)
    assert caught.value.hint == "state the version of its systemd-stub, if it has one"
    assert measured(data, version=252).rules.version == 252
    assert measured(uki(257), version=258).rules.version == 258
    with pytest.raises(MeasureError, match="expected version 252 to 262, got 263"):
        measured(data, version=263)


def test_an_image_for_arm64_is_measured() -> None:
    def arm(data: bytes) -> bytes:
        return data.replace(b"PE\0\0\x64\x86", b"PE\0\0\x64\xaa")

    data = arm(image(*(item for item in BASE.items() if item[0] != ".linux"), (".linux", arm(KERNEL))))
    assert measured(data, version=252).sections[".linux"][SHA256] == sha256(arm(KERNEL))


def test_a_section_longer_in_memory_is_measured_with_zeros_and_one_shorter_is_cut() -> None:
    padded = (FakeSection(b".osrel", b"ID=x", virtual_size=5000), FakeSection(b".splash", b"abc", 2))
    data = make_pe((*padded, FakeSection(b".linux", KERNEL, len(KERNEL) + 3)), size_of_headers=2048)
    result = measured(data, version=257)
    assert result.sections[".osrel"][SHA256] == sha256(b"ID=x".ljust(5000, b"\0"))
    assert result.sections[".splash"][SHA256] == sha256(b"ab")
    # Zeros behind the kernel are in the buffer that the firmware loads it from.
    assert result.kernel_authenticode == authenticode_digests(KERNEL + bytes(3), (SHA256,))


def test_a_uki_without_command_line_and_initrd_gives_the_kernel_nothing() -> None:
    result = measured(uki(252, without=(".cmdline", ".initrd")))
    assert (result.load_options, result.initrd) == (b"", None)
    assert set(result.sections) == {".linux", ".osrel"}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain\0after", "plain"),
        ("grün €".encode(), "grün €"),
        ("a\U0001f600b".encode(), "ab"),
        (b"a\xffb", "ab"),
        (b"a\xc3(b", "ab"),
        (b"a\xe2\x82", "a"),
        (b"a\xc3\0bc", "abc"),
        (b"a\xc0\x80b", "a"),
        (b"\xed\xa0\x80x", "x"),
        (b"\xf8\x88\x80\x80\x80x", "x"),
        (b"\xfc\x84\x80\x80\x80\x80x", "x"),
        (b"\xe0\x80\xafx", "/x"),
    ],
)
def test_utf_8_is_read_as_the_stub_reads_it(data: bytes, text: str) -> None:
    assert decode_command_line(data) == text


def test_mangling_differs_between_254_and_257() -> None:
    data = uki(252, (".cmdline", b"\x7f a\tb \n"), without=(".cmdline",))
    assert options(measured(data, version=252)) == "\x7f a b"
    assert options(measured(data, version=254)) == "\x7f a b"
    assert options(measured(data, version=257)) == "a b"
    with pytest.raises(MeasureError, match="with systemd-stub 255"):
        measured(data, version=255)


@pytest.mark.parametrize("version", [252, 254, 257, 262])
def test_load_options_replace_the_command_line_and_are_measured(version: int) -> None:
    result = measured(uki(version), StubInputs(load_options="evil=1 console=x "))
    assert options(result) == "evil=1 console=x"
    (event,) = result.pcr12
    assert event.data == utf16("evil=1 console=x")
    assert event.digests[SHA256] == sha256(utf16("evil=1 console=x"))
    assert int(event.event_type) == 0xD


@pytest.mark.parametrize(
    ("version", "confidential", "embedded", "used"),
    [
        (252, False, True, False),
        (252, False, False, True),
        (252, True, False, True),
        (254, True, False, False),
        (257, False, True, False),
        (257, False, False, True),
        (257, True, False, False),
    ],
)
def test_secure_boot_keeps_load_options_from_replacing_a_command_line(
    version: int, confidential: bool, embedded: bool, used: bool
) -> None:
    inputs = StubInputs(secure_boot=True, confidential=confidential, load_options="evil=1")
    result = measured(uki(version, without=() if embedded else (".cmdline",)), inputs)
    assert result.secure_boot
    assert ("evil=1" in options(result)) is used
    assert bool(result.pcr12) is used


@pytest.mark.parametrize(
    ("version", "text", "expected"),
    [
        (257, "\x01binary", "console=ttyS0"),
        (257, "a\x01b", "a b"),
        (257, "   ", "console=ttyS0"),
        (257, "a\0rest", "a"),
        (262, "console=\x01b", "console=ttyS0"),
        (252, "\x1f", "console=ttyS0"),
    ],
)
def test_load_options_that_are_no_text_are_ignored_as_the_version_does(
    version: int, text: str, expected: str
) -> None:
    assert options(measured(uki(version), StubInputs(load_options=text))) == expected


@pytest.mark.parametrize(
    ("version", "inputs", "reason"),
    [
        (257, StubInputs(load_options="@1 quiet"), "expected a command line without a profile selector"),
        (257, StubInputs(smbios_command_line="\ud800"), "expected text that UTF-8 can hold"),
        (252, StubInputs(load_options="  "), "expected text, or no command line at all, got an empty one"),
        (259, StubInputs(load_options="a\x01b"), "expected no control characters with systemd-stub 259"),
        (256, StubInputs(previous_initrd=b"x"), "does not start when an initrd is registered already"),
        (261, StubInputs(random_seed=True), "adds a secret of the machine to the initrd"),
    ],
)
def test_inputs_whose_effect_is_not_known_are_refused(version: int, inputs: StubInputs, reason: str) -> None:
    with pytest.raises(MeasureError, match=reason):
        measured(uki(version), inputs)


def test_options_that_only_the_kernel_reads_are_refused() -> None:
    inputs = StubInputs(secure_boot=True, confidential=True, load_options="a", consoles=())
    with pytest.raises(MeasureError, match=r"systemd-stub 261 has no command line .* the kernel reads"):
        measured(uki(261, without=(".cmdline",)), inputs)
    profiles = ((".profile", b"ID=a"), (".profile", b"ID=b"))
    with pytest.raises(MeasureError, match=r"systemd-stub 258 has no command line .* the kernel reads"):
        measured(uki(258, *profiles, without=(".cmdline",)), StubInputs(profile=1))
    assert measured(uki(257, *profiles, without=(".cmdline",)), StubInputs(profile=1)).load_options == b""


@pytest.mark.parametrize(("version", "used"), [(252, False), (254, True), (257, True), (262, True)])
@pytest.mark.parametrize("secure_boot", [False, True])
def test_the_smbios_command_line_is_appended_even_with_secure_boot(
    version: int, used: bool, secure_boot: bool
) -> None:
    inputs = StubInputs(secure_boot=secure_boot, smbios_command_line="evil=1")
    result = measured(uki(version), inputs)
    assert options(result) == ("console=ttyS0 evil=1" if used else "console=ttyS0")
    assert register12(result) == ([sha256(utf16("evil=1")).value] if used else [])
    assert measured(uki(version), replace(inputs, confidential=True)).pcr12 == ()


def test_254_does_not_mangle_the_smbios_command_line() -> None:
    inputs = StubInputs(smbios_command_line=" a\t")
    assert options(measured(uki(254), inputs)) == "console=ttyS0  a\t"
    assert options(measured(uki(257), inputs)) == "console=ttyS0 a"
    assert options(measured(uki(257, without=(".cmdline",)), inputs)) == "a"
    with pytest.raises(
        MeasureError, match=r"expected a section \.cmdline to append to with systemd-stub 254"
    ):
        measured(uki(254, without=(".cmdline",)), inputs)


def test_since_261_consoles_are_appended_unless_the_command_line_has_one() -> None:
    data = uki(261, (".cmdline", b"quiet"), without=(".cmdline",))
    with pytest.raises(MeasureError, match="expected console= with systemd-stub 261") as caught:
        measured(data)
    assert caught.value.hint is not None
    stated = measured(data, StubInputs(consoles=("console=ttyS0,115200", "console=tty0")))
    assert options(stated) == "quiet console=ttyS0,115200 console=tty0"
    assert stated.pcr12 == ()
    assert options(measured(data, StubInputs(consoles=()))) == "quiet"
    assert options(measured(uki(261), StubInputs(consoles=("console=x",)))) == "console=ttyS0"
    assert options(measured(data, version=260)) == "quiet"


def addon(*sections: tuple[str, bytes]) -> bytes:
    return image((".sbat", b"sbat,1"), *sections)


def test_addons_for_all_ukis_come_first_and_are_sorted_by_name() -> None:
    addons = (
        Addon(name="b.addon.efi", image=addon((".cmdline", b"b=1 "))),
        Addon(name="a.addon.efi", image=addon((".cmdline", b"a=1"))),
        Addon(name="z.addon.efi", image=addon((".cmdline", b"z=1")), everywhere=True),
    )
    joined = measured(uki(257), StubInputs(addons=addons, smbios_command_line="s=1"))
    assert options(joined) == "console=ttyS0 z=1 a=1 b=1 s=1"
    assert register12(joined) == [sha256(utf16(text)).value for text in ("z=1 a=1 b=1", "s=1")]
    apart = measured(uki(254), StubInputs(addons=addons))
    assert options(apart) == "console=ttyS0 z=1 a=1 b=1"
    assert register12(apart) == [sha256(utf16(text)).value for text in ("z=1", "a=1 b=1")]
    assert measured(uki(252), StubInputs(addons=addons)) == measured(uki(252))
    expected = [authenticode_digests(addons[index].image, (SHA256,)) for index in (2, 1, 0)]
    assert list(joined.addons) == expected


TREE = b"\xd0\x0d\xfe\xedtree"


def test_payloads_of_addons_are_measured_with_their_tags_and_joined_to_the_initrd() -> None:
    parts = ((".dtb", TREE), (".initrd", b"more"), (".ucode", b"u"))
    addons = tuple(
        Addon(name=f"{name}.addon.efi", image=addon(*((key, data + name.encode()) for key, data in parts)))
        for name in ("b", "a")
    )
    files = (("k.cred", b"secret"),)
    result = measured(uki(257, (".ucode", b"base")), StubInputs(addons=addons, credentials=files))
    archive = (
        newc(1, 0o040555, ".extra")
        + newc(2, 0o040500, ".extra/credentials")
        + newc(3, 0o100400, ".extra/credentials/k.cred", b"secret")
        + TRAILER
    )
    expected = [
        (TREE + b"a", tagged(0x6C46F751, "a.addon.efi")),
        (TREE + b"b", tagged(0x6C46F751, "b.addon.efi")),
        (archive, utf16("Credentials initrd")),
        (b"ub", tagged(0xDAC08E1A, "b.addon.efi")),
        (b"ua", tagged(0xDAC08E1A, "a.addon.efi")),
        (b"morea", tagged(0x49DFFE0F, "a.addon.efi")),
        (b"moreb", tagged(0x49DFFE0F, "b.addon.efi")),
    ]
    found = [(event.digests[SHA256], event.data) for event in result.pcr12]
    assert found == [(sha256(data), text) for data, text in expected]
    initrd = (b"ub", b"ua", b"base", b"initrd", archive, extra("os-release", b"ID=x\n"), b"morea", b"moreb")
    assert result.initrd == {SHA256: sha256(b"".join(pad(part) for part in initrd))}


@pytest.mark.parametrize(
    ("sections", "taken"),
    [
        (((".uname", b"6.12"),), True),
        (((".uname", b"6.1"),), True),
        (((".uname", b"6.12\0"),), True),
        (((".uname", b"6.1\0"),), False),
        (((".uname", b"6.13"),), False),
        (((".uname", b"6.12.1"),), False),
        (((".linux", b"kernel"),), False),
        ((), True),
    ],
)
def test_an_addon_for_another_kernel_or_with_one_is_loaded_but_not_used(
    sections: tuple[tuple[str, bytes], ...], taken: bool
) -> None:
    one = Addon(name="x.addon.efi", image=addon((".cmdline", b"x"), *sections))
    result = measured(uki(257, (".uname", b"6.12")), StubInputs(addons=(one,)))
    assert bool(result.pcr12) is taken
    assert len(result.addons) == 1


@pytest.mark.parametrize(
    ("version", "name", "data", "reason"),
    [
        (257, "x.efi", b"", r"expected the name of a file \*\.addon\.efi"),
        (257, ".addon.efi", b"", r"expected the name of a file \*\.addon\.efi"),
        (257, "ä.addon.efi", b"", r"expected the name of a file \*\.addon\.efi"),
        (257, "a/b.addon.efi", b"", r"expected the name of a file \*\.addon\.efi"),
        (257, "a\x1b[2J.addon.efi", b"", r"expected the name of a file \*\.addon\.efi"),
        (257, "a\0.addon.efi", b"", r"expected the name of a file \*\.addon\.efi"),
        (257, "a:b.addon.efi", b"", r"expected the name of a file \*\.addon\.efi"),
        (257, "x.addon.efi", addon((".dtb", b"no tree")), r"expected a device tree in \.dtb"),
        (257, "x.addon.efi", addon((".dtbauto", TREE)), r"addon x.addon.efi: section \.dtbauto"),
        (257, "x.addon.efi", addon((".profile", b"ID=x")), r"expected no section \.profile"),
        (257, "x.addon.efi", addon((".cmdline", b"a" * ((1 << 20) + 1))), "expected at most 1048576 bytes"),
        (256, "x.addon.efi", addon((".ucode", b"u")), r"expected no \.ucode with systemd-stub 256"),
        (255, "x.addon.efi", addon((".cmdline", b"a"), (".uname", b"6")), r"expected no \.uname"),
    ],
)
def test_an_addon_whose_effect_is_not_known_is_refused(
    version: int, name: str, data: bytes, reason: str
) -> None:
    with pytest.raises(MeasureError, match=reason):
        measured(uki(version, (".uname", b"6")), StubInputs(addons=(Addon(name=name, image=data),)))


def test_254_takes_command_lines_of_addons_only() -> None:
    one = Addon(name="x.addon.efi", image=addon((".cmdline", b"x"), (".ucode", b"u"), (".dtb", TREE)))
    result = measured(uki(254), StubInputs(addons=(one,)))
    assert register12(result) == [sha256(utf16("x")).value]
    assert result.initrd == {SHA256: sha256(b"initrd")}


def test_an_addon_that_is_no_image_or_there_twice_is_refused() -> None:
    with pytest.raises(PeError):
        measured(uki(257), StubInputs(addons=(Addon(name="x.addon.efi", image=b"x"),)))
    twice = tuple(
        Addon(name=name, image=addon((".cmdline", b"x"))) for name in ("x.addon.efi", "X.addon.efi")
    )
    with pytest.raises(MeasureError, match=r"addon X\.addon\.efi: expected one of this name"):
        measured(uki(257), StubInputs(addons=twice))


def packed(folder: str, directory_mode: int, file_mode: int, *files: tuple[str, bytes]) -> bytes:
    entries = [
        newc(3 + index, file_mode, f".extra/{folder}/{name}", data)
        for index, (name, data) in enumerate(files)
    ]
    head = newc(1, 0o040555, ".extra") + newc(2, directory_mode, f".extra/{folder}")
    return head + b"".join(entries) + TRAILER


def test_files_beside_the_uki_are_measured_as_archives_into_their_registers() -> None:
    inputs = StubInputs(
        credentials=(("b.cred", b"2"), ("a.cred", b"1")),
        global_credentials=(("g.CRED", b"3"),),
        sysexts=(("s.raw", b"4444"),),
        confexts=(("c.confext.raw", b"5"),),
        global_sysexts=(("gs.sysext.raw", b"6"),),
        global_confexts=(("gc.confext.raw", b"7"),),
    )
    archives = [
        (
            12,
            "Credentials initrd",
            packed("credentials", 0o040500, 0o100400, ("a.cred", b"1"), ("b.cred", b"2")),
        ),
        (12, "Global credentials initrd", packed("global_credentials", 0o040500, 0o100400, ("g.CRED", b"3"))),
        (13, "System extension initrd", packed("sysext", 0o040555, 0o100444, ("s.raw", b"4444"))),
        (
            13,
            "Global system extension initrd",
            packed("global_sysext", 0o040555, 0o100444, ("gs.sysext.raw", b"6")),
        ),
        (
            12,
            "Configuration extension initrd",
            packed("confext", 0o040555, 0o100444, ("c.confext.raw", b"5")),
        ),
        (
            12,
            "Global configuration extension initrd",
            packed("global_confext", 0o040555, 0o100444, ("gc.confext.raw", b"7")),
        ),
    ]
    since_258 = measured(uki(258), inputs)
    for register, events in ((12, since_258.pcr12), (13, since_258.pcr13)):
        expected = [(sha256(data), utf16(title)) for number, title, data in archives if number == register]
        assert [(event.digests[SHA256], event.data) for event in events] == expected
    ordered = order_stub_events((), since_258.pcr12, since_258.pcr13)
    assert [event.data for event in ordered] == [utf16(title) for _, title, _ in archives]
    middle = b"".join(data for _, _, data in archives)
    whole = pad(b"initrd") + middle + extra("os-release", b"ID=x\n")
    assert since_258.initrd == {SHA256: sha256(whole)}
    assert len(measured(uki(257), inputs).pcr13) == 1


@pytest.mark.parametrize(
    ("version", "inputs", "reason"),
    [
        (257, StubInputs(credentials=(("x.txt", b""),)), r"expected the name of a file \*\.cred"),
        (257, StubInputs(sysexts=(("x.confext.raw", b""),)), r"expected a file without \.confext\.raw"),
        (254, StubInputs(confexts=(("x.confext.raw", b""),)), "254 has no configuration extensions"),
        (
            256,
            StubInputs(confexts=(("x.confext.raw", b""),), sysexts=(("x.raw", b""),)),
            "256: the order of system and configuration extensions is not known",
        ),
        (257, StubInputs(credentials=(("x.cred", b""), ("X.cred", b""))), "files of different names"),
    ],
)
def test_files_that_the_stub_would_leave_out_are_refused(
    version: int, inputs: StubInputs, reason: str
) -> None:
    with pytest.raises(MeasureError, match=reason):
        measured(uki(version), inputs)


def test_an_initrd_that_was_there_before_comes_after_the_microcode() -> None:
    result = measured(uki(261, (".ucode", b"u")), StubInputs(previous_initrd=b"before"))
    parts = (b"u", b"before", b"initrd", extra("os-release", b"ID=x\n"))
    assert result.initrd == {SHA256: sha256(b"".join(pad(part) for part in parts))}


def test_nothing_beside_the_uki_leaves_registers_12_and_13_alone() -> None:
    files: NamedFiles = ()
    result = measured(uki(257), StubInputs(credentials=files))
    assert (result.pcr12, result.pcr13, result.addons) == ((), (), ())


def test_no_bank_is_an_error() -> None:
    with pytest.raises(MeasureError, match="expected at least one bank to predict, got none"):
        measure_uki(uki(257), ())


def test_a_command_line_longer_than_any_kernel_takes_is_refused() -> None:
    data = uki(257, (".cmdline", b"a" * (1 << 20) + b"a"), without=(".cmdline",))
    with pytest.raises(MeasureError, match=r"section \.cmdline: expected at most 1048576 bytes, got 1048577"):
        measured(data)
