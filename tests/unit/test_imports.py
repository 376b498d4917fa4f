"""What a client that only verifies has to load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("lief", "yaml", "jinja2", "click", "rich", "subprocess")


@pytest.mark.parametrize("module", ["blindbuild.verify", "blindbuild.client", "blindbuild.manifest"])
def test_verifying_loads_no_builder(module: str) -> None:
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# what costs a client time at every start, and is loaded when it is used; tests/benchmarks has the times
LATER = (
    "cryptography.x509",
    "blindbuild.formats.certificate",
    "blindbuild.formats.hpke",
    "blindbuild.formats.streams",
    "blindbuild.verify.bundle",
    "blindbuild.verify.current",
    "blindbuild.verify.explain",
    "blindbuild.verify.policy_file",
    "blindbuild.verify.tlog",
    "concurrent.futures",
    "socket",
    "ssl",
)


def test_what_only_some_clients_use_is_loaded_later() -> None:
    code = f"import sys, blindbuild.verify; print([m for m in {LATER!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


_WITHOUT_X509 = """
import pathlib, sys
sys.modules["cryptography.x509"] = None  # whoever imports it now fails
from blindbuild.manifest import parse_trust
from blindbuild.verify import Policy, appraise, parse_session
files = {path.name: path.read_bytes() for path in pathlib.Path(sys.argv[1]).iterdir()}
trust = parse_trust(files["trust"])
session = parse_session(files["session"])
appraisal = appraise(
    session, envelope=files["envelope"], release=files["release"], trust=trust, now=NOW, policy=Policy()
)
print(appraisal.accepted().product)
"""


def test_a_pinned_key_is_judged_without_x509(tmp_path: Path) -> None:
    from blindbuild.verify import session_bytes
    from tests.fakes.published import NOW
    from tests.fakes.world import publisher, session, tpm

    (tmp_path / "trust").write_bytes(publisher().trust(attestation_keys=[tpm().ak_public]))
    (tmp_path / "session").write_bytes(session_bytes(session(credential=False)))
    (tmp_path / "envelope").write_bytes(publisher().envelope)
    (tmp_path / "release").write_bytes(publisher().release)
    code = _WITHOUT_X509.replace("NOW", str(NOW))
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "hello\n", done.stderr
