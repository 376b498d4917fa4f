"""The model of a boot: the order of its events, and inputs that do not go together."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import MeasureError
from blindbuild.formats.authenticode import authenticode_digests
from blindbuild.formats.siglist import (
    EFI_CERT_SHA256,
    SignatureEntry,
    SignatureList,
    write_signature_lists,
    x509_list,
)
from blindbuild.formats.tcgevent import EventType
from blindbuild.measure.bank import extend_all
from blindbuild.measure.boot import (
    BootPath,
    UefiBoot,
    boot_events,
    events_by_register,
    find_addon_authorities,
)
from blindbuild.measure.classification import Exact, Initial, OneOf, Unconstrained
from blindbuild.measure.event import hash_in_banks, measured_event
from blindbuild.measure.kernel import MeasuredKernel, measure_kernel
from blindbuild.measure.pcr05 import predict_pcr05
from blindbuild.measure.platforms import PLATFORMS, find_platform
from blindbuild.measure.reference import predict_events, predict_platform
from blindbuild.measure.secure_boot import SecureBootState
from blindbuild.measure.shim import Shim, ShimAuthority, mok_variables
from blindbuild.measure.stub import stub_rules
from blindbuild.measure.uki import MeasuredUki
from tests.fakes.pe_image import make_pe

SHA256 = HashAlgorithm.SHA256
PLAIN, SECURE = find_platform("qemu-q35-ovmf-2025.02"), find_platform("qemu-q35-ovmf-2025.02-secboot")
OWNER = UUID(int=7)
DB = write_signature_lists([x509_list(b"certificate", OWNER)])
KEYS = SecureBootState(enabled=True, pk=DB, kek=DB, db=DB, authority=OWNER.bytes_le + b"certificate")
APPLICATION, AUTHORITY = (
    EventType.EV_EFI_BOOT_SERVICES_APPLICATION,
    EventType.EV_EFI_VARIABLE_AUTHORITY,
)


def digests(name: bytes) -> dict[HashAlgorithm, Digest]:
    return hash_in_banks((name,), (SHA256,))


UKI = MeasuredUki(
    rules=stub_rules(257),
    authenticode=digests(b"uki"),
    kernel_authenticode=digests(b"kernel"),
    sections={".linux": digests(b"linux")},
    load_options=b"q\0\0\0",
    initrd=digests(b"initrd"),
)
SECURE_UKI = replace(UKI, secure_boot=True)


def told(measured: MeasuredUki | MeasuredKernel, boot: UefiBoot) -> list[str]:
    """Return the events as `register type` words."""
    short = {
        EventType.EV_EFI_VARIABLE_DRIVER_CONFIG: "policy",
        EventType.EV_SEPARATOR: "separator",
        EventType.EV_EFI_ACTION: "action",
        APPLICATION: "image",
        AUTHORITY: "authority",
        EventType.EV_IPL: "data",
        EventType.EV_EVENT_TAG: "tag",
        EventType.EV_EFI_GPT_EVENT: "table",
    }
    return [f"{event.register} {short[event.event_type]}" for event in boot_events(measured, boot)]


POLICY = ["7 policy"] * 5 + ["7 separator"]
READY = ["4 action", *(f"{register} separator" for register in range(7))]
STUB = ["11 data", "11 data"]
KERNEL = ["9 tag", "9 tag"]
EXIT = ["5 action", "5 action"]


def test_a_boot_from_an_unpartitioned_disk() -> None:
    expected = [*POLICY, *READY, "4 image", *STUB, "4 image", *KERNEL, *EXIT]
    assert told(UKI, UefiBoot(platform=PLAIN)) == expected


def test_a_partition_table_is_measured_before_the_authority_and_that_before_the_image() -> None:
    boot = UefiBoot(platform=SECURE, secure_boot=KEYS, partition_table=b"table")
    expected = [*POLICY, *READY, "5 table", "7 authority", "4 image", *STUB, *KERNEL, *EXIT]
    assert told(SECURE_UKI, boot) == expected


def test_in_a_direct_boot_the_image_comes_before_the_firmware_is_ready_to_boot() -> None:
    expected = [*POLICY, "4 image", *READY, *STUB, "4 image", *KERNEL, *EXIT]
    assert told(UKI, UefiBoot(platform=PLAIN, path=BootPath.DIRECT)) == expected


def test_shim_is_the_first_image_and_measures_the_second() -> None:
    shim = Shim(
        authenticode=digests(b"shim"),
        variables=mok_variables(sbat_level=b"level"),
        authority=ShimAuthority("Shim", b"certificate"),
    )
    boot = UefiBoot(platform=SECURE, secure_boot=KEYS, shim=shim)
    middle = [
        "7 authority",
        "4 image",
        "14 data",
        "14 data",
        "7 authority",
        "14 data",
        "7 authority",
        "4 image",
    ]
    assert told(SECURE_UKI, boot) == [*POLICY, *READY, *middle, *STUB, *KERNEL, *EXIT]
    images = [e for e in boot_events(SECURE_UKI, boot) if e.event_type is APPLICATION]
    assert [event.digests for event in images] == [digests(b"shim"), digests(b"uki")]
    reference = predict_platform(SECURE_UKI, platform=SECURE, firmware=Digest.sha256(b""), boot=boot)
    assert isinstance(reference.banks[SHA256][14], Exact)


def test_a_shim_whose_variables_are_unknown_leaves_7_and_14_unconstrained_and_4_exact() -> None:
    boot = UefiBoot(platform=SECURE, secure_boot=KEYS, shim=Shim(authenticode=digests(b"shim")))
    registers = predict_platform(SECURE_UKI, platform=SECURE, firmware=Digest.sha256(b""), boot=boot).banks[
        SHA256
    ]
    assert [i for i, rule in enumerate(registers) if isinstance(rule, Unconstrained)] == [0, 1, 7, 14, 16, 23]
    assert isinstance(registers[4], Exact)


def test_a_kernel_with_everything_built_in_is_in_register_4_only() -> None:
    image = make_pe()
    kernel = measure_kernel(image, (SHA256,))
    assert told(kernel, UefiBoot(platform=PLAIN)) == [*POLICY, *READY, "4 image", *EXIT]
    registers = predict_platform(kernel, platform=PLAIN, firmware=Digest.sha256(b"")).banks[SHA256]
    assert [i for i, rule in enumerate(registers) if isinstance(rule, Initial)] == [
        *range(8, 16),
        *range(17, 23),
    ]


def test_a_kernel_measures_what_it_is_given() -> None:
    with_options = MeasuredKernel(digests(b"kernel"), load_options=b"q\0\0\0")
    with_initrd = MeasuredKernel(digests(b"kernel"), initrd=digests(b"initrd"))
    for kernel, count, first in ((with_options, 1, "command line"), (with_initrd, 1, "initrd")):
        events = predict_events(kernel, PLAIN)[9]
        assert (len(events), events[0].what) == (count, first)


def test_a_kernel_that_qemu_changes_has_no_signature_that_holds() -> None:
    changed = MeasuredKernel(digests(b"kernel"), changed=True)
    with pytest.raises(MeasureError, match="expected the kernel as it was signed, got one that QEMU changes"):
        boot_events(changed, UefiBoot(platform=SECURE, secure_boot=KEYS, path=BootPath.DIRECT))
    assert boot_events(changed, UefiBoot(platform=PLAIN, path=BootPath.DIRECT))
    assert boot_events(
        replace(changed, changed=False),
        UefiBoot(platform=SECURE, secure_boot=KEYS, path=BootPath.DIRECT),
    )


def test_what_the_stub_measures_into_12_and_13_is_exact_and_else_they_are_initial() -> None:
    extra = {
        register: measured_event(register, EventType.EV_IPL, b"x", "x", algorithms=(SHA256,))
        for register in (12, 13)
    }
    uki = replace(UKI, pcr12=(extra[12],), pcr13=(extra[13],))
    registers = predict_platform(uki, platform=PLAIN, firmware=Digest.sha256(b"")).banks[SHA256]
    for register, event in extra.items():
        rule = registers[register]
        assert isinstance(rule, Exact)
        assert rule.value == Digest.zero(SHA256).extend(event.digests[SHA256])


def test_addons_are_loaded_by_the_firmware_after_the_image_and_before_the_kernel() -> None:
    uki = replace(UKI, addons=(digests(b"one"), digests(b"two")))
    events = [e for e in boot_events(uki, UefiBoot(platform=PLAIN)) if e.event_type is APPLICATION]
    assert [e.digests for e in events] == [digests(name) for name in (b"uki", b"one", b"two", b"kernel")]


def test_an_addon_that_another_entry_validates_is_an_authority_once() -> None:
    other = write_signature_lists([x509_list(b"other", OWNER)])
    keys, entry = replace(KEYS, db=DB + other), OWNER.bytes_le + b"other"
    uki = replace(SECURE_UKI, addons=(digests(b"one"), digests(b"two"), digests(b"three")))
    boot = UefiBoot(
        platform=SECURE, secure_boot=keys, addon_authorities=(KEYS.authority or b"", entry, entry)
    )
    loaded = ["7 authority", "4 image", *STUB, "4 image", "7 authority", "4 image", "4 image"]
    assert told(uki, boot) == [*POLICY, *READY, *loaded, *KERNEL, *EXIT]
    with pytest.raises(MeasureError, match="entries of db that validate 3 addons, got 0"):
        boot_events(uki, replace(boot, addon_authorities=()))
    with pytest.raises(MeasureError, match="entries of db that validate 0 addons, got 3"):
        boot_events(SECURE_UKI, boot)


def test_the_authorities_of_addons_are_found_in_any_order_of_their_files() -> None:
    images = [make_pe(tail=bytes([number])) for number in range(3)]
    values = [authenticode_digests(image, (SHA256,)) for image in images]
    entries = [OWNER.bytes_le + value[SHA256].value for value in values]
    allowed = SignatureList(
        EFI_CERT_SHA256, tuple(SignatureEntry(OWNER, value[SHA256].value) for value in values)
    )
    keys = replace(KEYS, db=write_signature_lists([allowed]), authority=None)
    uki = replace(SECURE_UKI, addons=(values[2], values[0]))
    assert find_addon_authorities(uki, keys, images) == (entries[2], entries[0])
    assert find_addon_authorities(replace(UKI, addons=uki.addons), SecureBootState(), images) == ()
    with pytest.raises(MeasureError, match="expected the images of 2 addons, 1 are missing"):
        find_addon_authorities(uki, keys, images[1:])


def test_a_partition_table_moves_register_5_and_a_retry_is_foreseen_with_it() -> None:
    boot = UefiBoot(platform=PLAIN, partition_table=b"table")
    rule = predict_platform(UKI, platform=PLAIN, firmware=Digest.sha256(b""), boot=boot).banks[SHA256][5]
    assert isinstance(rule, OneOf)
    values = {
        extend_all(5, predict_pcr05((SHA256,), partition_table=b"table", failed_exit=failed), SHA256)
        for failed in ((), PLAIN.failed_exit)
    }
    assert set(rule.values) == values
    without = predict_platform(UKI, platform=PLAIN, firmware=Digest.sha256(b"")).banks[SHA256][5]
    assert isinstance(without, OneOf)
    assert not values & set(without.values)


def test_the_firmwares_own_events_do_not_make_register_0_exact() -> None:
    version = measured_event(0, EventType.EV_S_CRTM_VERSION, b"\0\0", "version", algorithms=(SHA256,))
    boot = UefiBoot(platform=PLAIN, firmware=(version,))
    assert boot_events(UKI, boot)[0] == version
    assert set(predict_events(UKI, PLAIN, boot=boot)) == {2, 3, 4, 5, 6, 7, 9, 11}
    rule = predict_platform(UKI, platform=PLAIN, firmware=Digest.sha256(b""), boot=boot).banks[SHA256][0]
    assert isinstance(rule, Unconstrained)


def test_one_secure_boot_state_belongs_to_one_kind_of_platform() -> None:
    with pytest.raises(MeasureError, match=r"2025\.02: expected Secure Boot to be off, got the other state"):
        UefiBoot(platform=PLAIN, secure_boot=KEYS)
    with pytest.raises(MeasureError, match="secboot: expected Secure Boot to be on") as caught:
        UefiBoot(platform=SECURE)
    assert "-secboot" in (caught.value.hint or "")
    for platform in PLATFORMS:
        assert platform.secure_boot == platform.identifier.endswith("-secboot")
        assert (platform.secure_boot_data == b"\x01") == platform.secure_boot


def test_a_uki_that_was_measured_for_the_other_state_is_refused() -> None:
    for uki, boot in (
        (UKI, UefiBoot(platform=SECURE, secure_boot=KEYS)),
        (SECURE_UKI, UefiBoot(platform=PLAIN)),
    ):
        with pytest.raises(MeasureError, match="expected a UKI that was measured with Secure Boot"):
            boot_events(uki, boot)


def test_without_an_authority_there_is_no_boot_with_secure_boot() -> None:
    boot = UefiBoot(platform=SECURE, secure_boot=replace(KEYS, authority=None))
    with pytest.raises(MeasureError, match="expected the entry of db that validates the image, got none"):
        boot_events(SECURE_UKI, boot)


def test_inputs_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(MeasureError, match="direct boot: expected no partition table"):
        UefiBoot(platform=PLAIN, path=BootPath.DIRECT, partition_table=b"table")
    known = Shim(authenticode=digests(b"shim"), variables=mok_variables(sbat_level=b"level"))
    with pytest.raises(MeasureError, match="an authority of its second stage with Secure Boot only"):
        UefiBoot(platform=SECURE, secure_boot=KEYS, shim=known)
    with pytest.raises(MeasureError, match="an authority of its second stage with Secure Boot only"):
        UefiBoot(platform=PLAIN, shim=replace(known, authority=ShimAuthority("db", b"x")))
    with pytest.raises(MeasureError, match=r"expected a boot on qemu-q35-ovmf-2022\.11, got"):
        predict_events(UKI, find_platform("qemu-q35-ovmf-2022.11"), boot=UefiBoot(platform=PLAIN))


def test_events_are_sorted_into_registers_without_changing_their_order() -> None:
    events = boot_events(UKI, UefiBoot(platform=PLAIN))
    found = events_by_register(events)
    assert list(found) == sorted(found)
    assert all(found[register] == tuple(e for e in events if e.register == register) for register in found)
