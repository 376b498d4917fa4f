"""What boot tests share: images built once, signed by a key of the test run, and machines that answer."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from blindbuild.assemble.recipe import load_recipe
from blindbuild.assemble.request import BuildRequest
from blindbuild.cli.booting import READY_TIMEOUT_S, BootOptions, configure_machine, gate_answers
from blindbuild.cli.inputs import InputOptions, build_into
from blindbuild.cli.outputs import MANIFEST, RELEASE, STATEMENT
from blindbuild.cli.sign import sign_image
from blindbuild.client import Attempt, Expectation, attest
from blindbuild.digest import HashAlgorithm
from blindbuild.host.store import Store
from blindbuild.machine.config import MachineConfig
from blindbuild.machine.machine import Machine
from blindbuild.manifest import Statement, TrustRoots, parse_statement, parse_trust
from blindbuild.publish import SigningKey, TrustContent, generate_key, make_trust
from blindbuild.verify import Policy
from tests.locked import QUIET, ROOT, locked_inputs

ROUTE = "/v1/hello"
TIMEOUT_S = 60.0  # an answer under emulation, with a busy machine beside it


@dataclass
class Lab:
    """One place for a test run: its images, its release key, its TPM authority."""

    directory: Path
    store: Store = field(default_factory=lambda: Store.default(os.environ))
    key: SigningKey = field(default_factory=generate_key)

    def request(self, recipe: Path = ROOT / "recipes" / "hello", **options: object) -> BuildRequest:
        """What to build, with every input in the store."""
        loaded = load_recipe(recipe / "recipe.yaml")
        return replace(
            BuildRequest(loaded, locked_inputs(recipe), jobs=os.cpu_count() or 1, keep_objects=True),
            **options,
        )

    def build(self, recipe: Path = ROOT / "recipes" / "hello", **options: object) -> Path:
        """Build and sign; return the image's directory."""
        place = build_into(
            self.request(recipe, **options),
            self.directory / "images",
            store=self.store,
            reporter=QUIET,
            options=InputOptions(),
        )
        sign_image(place, self.key, days=1)
        return place

    def copy(self, image: Path, name: str) -> Path:
        """A second directory of the same image, for a test that changes it."""
        place = self.directory / "copies" / name
        shutil.copytree(image, place)
        return place

    def machine(self, image: Path, **changes: object) -> MachineConfig:
        """The machine for an image; its TPM is endorsed by the lab's own authority."""
        config = configure_machine(image, store=self.store, options=BootOptions(memory_mib=256))
        return replace(config, tpm_authority=self.directory / "authority", **changes)

    @contextlib.contextmanager
    def running(self, config: MachineConfig) -> Iterator[Machine]:
        """A machine whose gate answers."""
        with Machine(config) as machine:
            machine.wait_until_ready(gate_answers, READY_TIMEOUT_S)
            yield machine

    def trust(self, machine: Machine, product: str = "hello") -> TrustRoots:
        """What a client of this lab is given out of band."""
        return parse_trust(self.trust_bytes(machine, product))

    def trust_bytes(self, machine: Machine, product: str = "hello") -> bytes:
        """The trust file of this lab."""
        return make_trust(
            TrustContent(
                product=product,
                release_keys=(self.key.public,),
                test_tpm_roots=(machine.authority.root_certificate.decode(),),
                test_tpm_intermediates=(machine.authority.issuer_certificate.decode(),),
            )
        )

    def expect(
        self,
        image: Path,
        machine: Machine,
        *,
        bank: HashAlgorithm = HashAlgorithm.SHA256,
        product: str = "hello",
        **policy: bool,
    ) -> Expectation:
        """What a client judges by that believes this image's envelopes and the lab's TPMs."""
        return Expectation(
            envelope=(image / MANIFEST).read_bytes(),
            release=(image / RELEASE).read_bytes(),
            trust=self.trust(machine, product),
            policy=Policy(allow_test_tpm=True, **policy),
            bank=bank,
        )

    def judge(self, url: str, expectation: Expectation) -> Attempt:
        """Have the exchange and judge it; no data is sent."""
        return attest(url, expectation, timeout_s=TIMEOUT_S)


def statement_of(image: Path) -> Statement:
    """The statement beside an image, as made before any boot."""
    return parse_statement((image / STATEMENT).read_bytes())
