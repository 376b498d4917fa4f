"""`blindbuild demo`: the whole of it once, from a recipe to an attested answer."""

from __future__ import annotations

from pathlib import Path

import click

from blindbuild.assemble.fetch import missing_inputs
from blindbuild.assemble.lock import Lock, check_lock, load_lock, lock_path, read_lock
from blindbuild.assemble.lock_make import Upgrade
from blindbuild.assemble.recipe import Recipe, load_recipe
from blindbuild.assemble.request import BuildRequest
from blindbuild.cli.booting import BootOptions, booted, configure_machine
from blindbuild.cli.inputs import InputOptions, build_into, fill_store, write_lock
from blindbuild.cli.judging import expect, show_appraisal
from blindbuild.cli.options import (
    JudgingOptions,
    find_recipe,
    mirror_option,
    processors,
    state_directory,
    user_store,
)
from blindbuild.cli.render import TerminalReporter
from blindbuild.cli.sign import sign_image
from blindbuild.client import attest
from blindbuild.errors import LockError, UsageError
from blindbuild.formats.printable import visible
from blindbuild.host.files import read_bytes, write_atomically
from blindbuild.host.reporter import Reporter
from blindbuild.host.store import Store
from blindbuild.machine.swtpm import TpmAuthority
from blindbuild.publish import SigningKey, TrustContent, generate_key, load_key, make_trust

RECIPE = Path("recipes/hello")
ROUTE = "/v1/hello"
KEY_MODE = 0o600
VALID_DAYS = 7


@click.command("demo")
@click.argument("recipe", default=RECIPE, type=click.Path(exists=True, path_type=Path))
@click.option(
    "-o",
    "--output",
    default=Path("images"),
    type=click.Path(file_okay=False, path_type=Path),
    show_default=True,
)
@click.option("--name", default="Ada", show_default=True, help="Whom the workload shall greet.")
@click.option(
    "--locked", is_flag=True, help="Fail, rather than lock anew, if the mirror no longer has a version."
)
@mirror_option
def command(recipe: Path, output: Path, name: str, locked: bool, mirror: str | None) -> None:
    """Lock, fetch, build, sign, boot, verify, ask, and shut down: everything once, with nothing left out.

    Example: blindbuild demo --name Grace
    """
    loaded, store = load_recipe(find_recipe(recipe)), user_store()
    with TerminalReporter() as reporter:
        options = InputOptions(mirror=mirror)
        lock = obtain_inputs(loaded, store=store, reporter=reporter, options=options, locked=locked)
        request = BuildRequest(loaded, lock, jobs=processors())
        image = build_into(request, output, store=store, reporter=reporter, options=options)
        key = _demo_key()
        reporter.begin("sign statement and release")
        digest, until = sign_image(image, key, days=VALID_DAYS)
        reporter.finish(f"statement {digest.hex[:16]}…, valid until {until}")
        config = configure_machine(image, store=store, options=BootOptions(guest_port=loaded.network.port))
        with booted(config, reporter=reporter) as machine:
            trust = _write_trust(loaded.name, key, machine.authority)
            _ask(machine.url, image, trust, name, reporter)
            reporter.begin("shut down")
        reporter.finish("nothing left running")


def obtain_inputs(
    recipe: Recipe, *, store: Store, reporter: Reporter, options: InputOptions, locked: bool
) -> Lock:
    """Return a lock whose inputs are all in the store; a new local one if the mirror moved on.

    Raises:
        LockError: `locked`, and the mirror no longer has a version, or the lock is not the recipe's.
    """
    local = lock_path(recipe, local=True)
    if local.exists() and not locked:
        lock = read_lock(local)
        if lock.recipe_checksum == load_lock(recipe).recipe_checksum and not missing_inputs(lock, store):
            reporter.note(
                f"using {local}: the mirror no longer has every version of {lock_path(recipe).name}"
            )
            return lock
    lock = load_lock(recipe)
    try:
        fill_store(lock, store=store, reporter=reporter, options=options)
    except LockError as error:
        if locked or options.offline:
            raise
        reporter.finish("not everything is there any more")
        reporter.note(error.message)
        reporter.note(f"locking anew into {local}, which git does not track; --locked forbids this")
        upgrade = Upgrade(everything=True)
        lock = write_lock(
            recipe, store=store, reporter=reporter, mirror=options.mirror, upgrade=upgrade, local=True
        )
        check_lock(recipe, lock)
        fill_store(lock, store=store, reporter=reporter, options=options)
    return lock


def _ask(url: str, image: Path, trust: Path, name: str, reporter: Reporter) -> None:
    options = JudgingOptions(manifest=image, trust=trust, allow_test_tpm=True, history=False)
    reporter.begin("ask for evidence, with a fresh nonce, and judge it")
    attempt = attest(url, expect(options))
    reporter.finish(f"{len(attempt.appraisal.steps)} steps")
    show_appraisal(attempt.appraisal, bank=options.bank)
    with attempt.accept() as connection:
        answer = connection.post(ROUTE, name.encode())
    click.echo(f"answer: {visible(answer.decode('utf-8', 'replace').strip())}")


def _demo_key() -> SigningKey:
    path = state_directory() / "demo" / "release.key"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, generate_key().to_pem(), KEY_MODE)
    return load_key(read_bytes(path, error=UsageError))


def _write_trust(product: str, key: SigningKey, authority: TpmAuthority) -> Path:
    path = state_directory() / "demo" / "trust.json"
    content = TrustContent(
        product=product,
        release_keys=(key.public,),
        test_tpm_roots=(authority.root_certificate.decode("ascii"),),
        test_tpm_intermediates=(authority.issuer_certificate.decode("ascii"),),
    )
    write_atomically(path, make_trust(content))
    return path
