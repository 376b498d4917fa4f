"""Enclave images of any parts: what is written reads back, and a second reader measures the same."""

from hypothesis import given, settings
from hypothesis import strategies as st

from blindbuild.errors import FormatError
from blindbuild.formats.cbor import CborValue, decode_cbor, encode_cbor
from blindbuild.formats.eif import EifArchitecture, EifPart, SectionType, read_eif, write_eif
from blindbuild.formats.eif_signature import parse_eif_signature
from blindbuild.formats.source import BytesSource
from blindbuild.measure.eif import measure_eif, measure_parts
from tests.fakes.enclave_image import image_bytes, make_enclave
from tests.fakes.enclave_reader import load

CBOR = st.recursive(
    st.one_of(
        st.integers(-(1 << 64), (1 << 64) - 1),
        st.binary(max_size=30),
        st.text(max_size=30),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5).map(tuple),
        st.dictionaries(st.one_of(st.integers(-1000, 1000), st.text(max_size=5)), inner, max_size=4),
    ),
    max_leaves=20,
).filter(lambda value: depth(value) < 8)
SAMPLE = image_bytes(make_enclave())


def depth(value: CborValue) -> int:
    if isinstance(value, tuple):
        return 1 + max(map(depth, value), default=0)
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=1)
    return 1


@settings(deadline=None)
@given(
    st.binary(max_size=100),
    st.binary(max_size=100),
    st.lists(st.binary(max_size=100), min_size=1, max_size=29),
    st.sampled_from(EifArchitecture),
    st.booleans(),
)
def test_an_image_of_any_parts_reads_back_and_two_readers_measure_the_same(
    kernel: bytes, line: bytes, disks: list[bytes], architecture: EifArchitecture, metadata_first: bool
) -> None:
    about = EifPart(SectionType.METADATA, BytesSource(b'{"a":1}'))
    parts = [
        *([about] if metadata_first else []),
        EifPart(SectionType.KERNEL, BytesSource(kernel)),
        EifPart(SectionType.COMMAND_LINE, BytesSource(line)),
        *(EifPart(SectionType.RAMDISK, BytesSource(disk)) for disk in disks),
        *([] if metadata_first else [about]),
    ]
    data = b"".join(write_eif(parts, architecture))
    image = read_eif(BytesSource(data))
    again = [
        EifPart(item.section_type, BytesSource(data[item.offset : item.offset + item.size]))
        for item in image.sections
    ]
    assert b"".join(write_eif(again, image.architecture)) == data
    enclave = load(data)
    ours = {item.name: item.digest.hex for item in measure_eif(BytesSource(data))}
    assert enclave.registers(None) | {"PCR8": "00" * 48} == ours
    assert measure_parts(parts) == measure_eif(BytesSource(data))
    assert enclave.arch == architecture.value


@settings(deadline=None)
@given(CBOR)
def test_a_value_survives_cbor(value: CborValue) -> None:
    assert decode_cbor(encode_cbor(value)) == value


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_one_cbor_value_or_our_error(data: bytes) -> None:
    try:
        value = decode_cbor(data)
    except FormatError:
        return
    assert encode_cbor(value) == data


@settings(deadline=None)
@given(st.binary(max_size=700), st.integers(0, len(SAMPLE)))
def test_foreign_bytes_in_an_image_give_our_error_only(data: bytes, offset: int) -> None:
    try:
        measure_eif(BytesSource(SAMPLE[:offset] + data + SAMPLE[offset + len(data) :]))
    except FormatError:
        return
    assert SAMPLE[offset : offset + len(data)] == data


@settings(deadline=None)
@given(CBOR)
def test_any_cbor_as_a_signature_section_gives_our_error_only(value: CborValue) -> None:
    try:
        parse_eif_signature(encode_cbor(({"signing_certificate": value, "signature": (1, 2)},)))
    except FormatError:
        return
    raise AssertionError
