"""Policy files: strict, never empty, and read as what they say."""

from __future__ import annotations

import json

import pytest

from blindbuild.digest import Digest
from blindbuild.errors import ManifestError
from blindbuild.verify import Policy
from blindbuild.verify.policy import AllowedMachines
from blindbuild.verify.policy_file import parse_policy, policy_bytes, policy_json
from tests.fakes import log_world
from tests.fakes.damage import bit_flips, truncations

NAME = "000b" + "ab" * 32
QUORUMS = ("quorum none\n", "quorum w1\n", log_world.QUORUM, "group two 1 w1 w2\nquorum two\n")
LOG = log_world.policy_text().decode()
FULL = {
    "version": 1,
    "allowTestTpm": True,
    "allowDebug": True,
    "allowUnsafeClock": True,
    "requireClosed": ["disk", "serial-console"],
    "platforms": ["qemu-q35-ovmf-2025.02"],
    "memoryConfidentiality": ["sev-snp", "tdx"],
    "channelProfiles": ["hpke-quote-v1"],
    "machines": {"attestationKeys": [NAME], "endorsementKeys": [NAME], "instances": ["gce:1/p/z/m/2"]},
    "requireCrls": True,
    "requireSecureBoot": True,
    "requireProbe": True,
    "requireLog": LOG,
    "channel": "beta",
    "minimumTpmFirmware": "0x0001000200030004",
    "clockSkewSeconds": 0,
    "sessionSeconds": 60,
    "maxEvidenceAgeSeconds": 30,
    "maxReleaseAgeSeconds": 86400,
}


def read(value: object) -> Policy:
    return parse_policy(json.dumps(value, indent=1).encode())


def test_a_whole_policy_is_read() -> None:
    assert read(FULL) == Policy(
        allow_test_tpm=True,
        allow_debug=True,
        allow_unsafe_clock=True,
        required_closed=frozenset({"disk", "serial-console"}),
        platforms=frozenset({"qemu-q35-ovmf-2025.02"}),
        memory_confidentiality=frozenset({"sev-snp", "tdx"}),
        channel_profiles=frozenset({"hpke-quote-v1"}),
        machines=AllowedMachines(frozenset({NAME}), frozenset({NAME}), frozenset({"gce:1/p/z/m/2"})),
        require_crls=True,
        require_secure_boot=True,
        require_probe=True,
        required_log=log_world.policy(),
        channel="beta",
        minimum_tpm_firmware=0x0001000200030004,
        clock_skew_s=0,
        session_s=60,
        evidence_age_s=30,
        release_age_s=86400,
    )


@pytest.mark.parametrize("key", sorted(FULL.keys() - {"version"}))
def test_what_is_absent_has_the_strict_default(key: str) -> None:
    assert read({"version": 1, key: FULL[key]}) != Policy()
    rest = {name: value for name, value in FULL.items() if name != key}
    ours, strict = policy_json(read(rest)), policy_json(Policy())
    assert {name for name in strict if ours[name] == strict[name]} == {
        key,
        "version",
        "requireRelease",
        "image",
    }


REFUSED = {
    "says nothing": ({"version": 1}, "expected at least one rule"),
    "another version": ({"version": 2, "requireCrls": True}, "expected 1 to 1"),
    "no version": ({"requireCrls": True}, "missing version"),
    "an unknown field": ({"version": 1, "requireClosd": ["disk"]}, "unknown 'requireClosd'"),
    "a flag as a number": ({"version": 1, "allowDebug": 0}, "expected true or false"),
    "a flag as text": ({"version": 1, "requireCrls": "yes"}, "expected true or false"),
    "an empty list": ({"version": 1, "requireClosed": []}, "expected 1 to"),
    "text for a list": ({"version": 1, "requireClosed": "disk"}, "expected a list"),
    "an empty name": ({"version": 1, "requireClosed": [""]}, "requireClosed"),
    "the same twice": ({"version": 1, "platforms": ["a", "a"]}, "each entry once"),
    "memory of an unknown kind": ({"version": 1, "memoryConfidentiality": ["none"]}, "sev-snp|tdx"),
    "a channel of an unknown kind": ({"version": 1, "channelProfiles": ["tls"]}, "tls-spki-quote-v1|hpke"),
    "no channel at all": ({"version": 1, "channelProfiles": []}, "expected 1 to"),
    "a channel that is no list": ({"version": 1, "channelProfiles": "hpke-quote-v1"}, "expected a list"),
    "a channel with more behind it": (
        {"version": 1, "channelProfiles": ["hpke-quote-v1\n"]},
        "channelProfiles",
    ),
    "no machine": ({"version": 1, "machines": {}}, "got none"),
    "an unknown kind of machine": ({"version": 1, "machines": {"serials": ["1"]}}, "unknown 'serials'"),
    "a name of another hash": (
        {"version": 1, "machines": {"attestationKeys": ["0004" + "ab" * 20]}},
        "attestationKeys",
    ),
    "a name in capitals": (
        {"version": 1, "machines": {"attestationKeys": [NAME.upper()]}},
        "attestationKeys",
    ),
    "a machine of nobody's cloud": ({"version": 1, "machines": {"instances": ["m"]}}, "instances"),
    "a log policy that is none": ({"version": 1, "requireLog": "quorum none"}, "requireLog"),
    "firmware as a number": ({"version": 1, "minimumTpmFirmware": 7}, "expected a string"),
    "firmware without zeros": ({"version": 1, "minimumTpmFirmware": "0x7"}, "minimumTpmFirmware"),
    "a session of a month": ({"version": 1, "sessionSeconds": 30 * 86400}, "expected 1 to"),
    "a session of no time": ({"version": 1, "sessionSeconds": 0}, "expected 1 to"),
    "a clock that is an hour and more off": ({"version": 1, "clockSkewSeconds": 3601}, "expected 0 to"),
    "older evidence than the client waits for": (
        {"version": 1, "maxEvidenceAgeSeconds": 121},
        "expected 1 to 120",
    ),
    "a release age of no time": ({"version": 1, "maxReleaseAgeSeconds": 0}, "expected 1 to"),
    "seconds as a truth": ({"version": 1, "sessionSeconds": True}, "expected an integer"),
    "not an object": ([], "expected an object"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_policy_that_breaks_a_rule_is_refused(name: str) -> None:
    value, message = REFUSED[name]
    with pytest.raises(ManifestError) as caught:
        read(value)
    assert message in caught.value.message


def test_a_policy_that_is_too_long_or_says_a_thing_twice_is_refused() -> None:
    with pytest.raises(ManifestError, match="at most"):
        parse_policy(b" " * (1 << 19) + b"{}")
    with pytest.raises(ManifestError, match="duplicate"):
        parse_policy(b'{"version":1,"requireCrls":false,"requireCrls":true}')


def test_a_damaged_policy_is_refused_or_read_and_nothing_else() -> None:
    data = json.dumps(FULL).encode()
    for damaged in (*truncations(data, step=3), *bit_flips(data)):
        try:
            parse_policy(damaged)
        except ManifestError:
            continue
    for cut in truncations(data):
        with pytest.raises(ManifestError):
            parse_policy(cut)


def test_what_is_in_force_has_one_form() -> None:
    assert policy_bytes(read(FULL)) == policy_bytes(read(dict(reversed(FULL.items()))))
    assert policy_bytes(read(FULL)) != policy_bytes(Policy())
    with_image = Policy(image=Digest.sha256(b"image"))
    assert policy_json(with_image)["image"] == Digest.sha256(b"image").hex


def test_the_keys_of_a_log_and_its_quorum_are_in_the_record() -> None:
    records = {policy_bytes(Policy(required_log=log_world.policy(quorum))) for quorum in QUORUMS}
    assert len(records) == len(QUORUMS)
    assert all(key.vkey.encode() in min(records) for key in log_world.WITNESSES)


def test_every_field_of_a_policy_is_in_its_record() -> None:
    import dataclasses

    # two fields whose records differ only by one policy field are what an auditor looks at
    changed = {
        "required_closed": frozenset({"disk"}),
        "platforms": frozenset({"p"}),
        "memory_confidentiality": frozenset({"tdx"}),
        "channel_profiles": frozenset({"hpke-quote-v1"}),
        "machines": AllowedMachines(frozenset({NAME})),
        "required_log": log_world.policy(),
        "image": Digest.sha256(b"image"),
        "minimum_tpm_firmware": 1,
        "release_age_s": 1,
        "channel": "beta",
    }
    for field in dataclasses.fields(Policy):
        default = getattr(Policy(), field.name)
        value = changed.get(field.name, (not default) if isinstance(default, bool) else 7)
        other = dataclasses.replace(Policy(), **{field.name: value})
        assert policy_bytes(other) != policy_bytes(Policy()), field.name
