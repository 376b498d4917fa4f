"""The filters as the locked compiler makes them for an image are those that all other tests look at."""

from __future__ import annotations

import functools

import pytest

from blindbuild.assemble.guest import build_guest
from blindbuild.assemble.toolchain import toolchain_key
from tests.fakes.guest_filters import made_filters
from tests.locked import locked_inputs, locked_toolchain, user_store


@functools.cache
def shipped(variant: str) -> dict[str, bytes]:
    """The filters of a variant of the image."""
    guest = build_guest(
        user_store(),
        toolchain=locked_toolchain(),
        toolchain_key=toolchain_key(locked_inputs().groups["toolchain"]),
        variant=variant,
        workload_sources={},
    )
    return dict(guest.filters)


@pytest.mark.parametrize("variant", ["product", "probe"])
def test_the_locked_compiler_gives_the_filters_that_the_tests_look_at(variant: str) -> None:
    assert shipped(variant) == made_filters(probe=variant == "probe")


def test_the_product_and_the_probe_differ_in_the_gate_s_filter_only() -> None:
    product, probe = shipped("product"), shipped("probe")
    assert {name for name in product if product[name] != probe[name]} == {"gate"}
