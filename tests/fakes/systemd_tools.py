"""systemd's own tools from Debian trixie, fetched once as locked packages, run with their own libraries."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from blindbuild.assemble.fetch import Sources, fetch_inputs
from blindbuild.assemble.lock import Lock, LockedPackage
from blindbuild.assemble.toolchain import prepare_toolchain
from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import BlindbuildError
from blindbuild.host.process import Completed
from blindbuild.host.sandbox import Bind, run_in_sandbox
from tests.locked import user_store

# Debian trixie's main archive: name, version, path, size and digest as its signed index has them
PACKAGES = Path(__file__).with_name("systemd_257.json")


@functools.cache
def systemd_root() -> Path:
    """The unpacked packages; skips where they cannot be had."""
    packages = tuple(
        LockedPackage(
            name=entry["name"],
            version=entry["version"],
            architecture="amd64",
            archive="debian",
            path=entry["path"],
            size=entry["size"],
            digest=Digest.from_hex(HashAlgorithm.SHA256, entry["sha256"]),
        )
        for entry in json.loads(PACKAGES.read_text())
    )
    none = Digest.sha256(b"")
    lock = Lock("trixie", none, none, {"tree": packages}, (), ())
    try:
        fetch_inputs(lock, user_store(), Sources(environ=os.environ))
        return prepare_toolchain(user_store(), packages)
    except BlindbuildError as error:
        pytest.skip(f"systemd 257 of Debian trixie cannot be had: {error.message}")


def run_systemd(tool: str, *words: str, binds: Sequence[Bind], **environment: str) -> Completed:
    """Run one of its programs; the caller looks at its exit status."""
    return run_in_sandbox(
        systemd_root(),
        [f"/usr/lib/systemd/{tool}", *words],
        binds=binds,
        cwd="/",
        env=environment,
        timeout_s=60,
        check=False,
    )
