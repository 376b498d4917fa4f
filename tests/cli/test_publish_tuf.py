"""`blindbuild publish` and a TUF repository: the page's commands as they stand there, and what is said."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from blindbuild.cli.main import main
from blindbuild.client.tuf import TufRepository
from blindbuild.errors import UsageError, VerificationError
from blindbuild.manifest import parse_trust
from tests.cli.test_docs_commands import of_page
from tests.cli.test_image_directory import write_image
from tests.fakes.world import authority

PAGE = "spec/publication.md"


def run(text: str, *, code: int = 0) -> Result:
    done = CliRunner().invoke(main, shlex.split(text), env={"COLUMNS": "200"})
    assert done.exit_code == code or (code and done.exception), (text, done.output, done.exception)
    return done


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    Path("images/hello").mkdir(parents=True)
    write_image(tmp_path / "images" / "hello" / "1.0.0")
    Path("maker.pem").write_text(authority().root_pem)
    return tmp_path


def begin() -> None:
    """A repository with one key of each kind, all at hand."""
    for name in ("root", "release", "online"):
        run(f"keygen -o {name}.key")
    keys = "--root root.key.pub --release release.key.pub --online online.key.pub"
    run(f"publish init repo {keys} --key root.key --key release.key --key online.key")


def client() -> TufRepository:
    return TufRepository(parse_trust(Path("trust.json").read_bytes()), "repo")


def test_the_commands_of_the_page_lead_to_a_release_that_clients_follow(place: Path) -> None:
    texts = [text for text in of_page(PAGE) if not text.startswith(("verify", "publish withdraw"))]
    first, *_ = [index for index, text in enumerate(texts) if text.startswith("publish rotate")]
    said = [run(text).stdout for text in texts[:first]]
    assert sum("staged, not published" in out for out in said) == 5
    assert sum(out.splitlines()[-1:] == ["published"] for out in said) == 3  # refresh, refresh, the daily job
    (status,) = [out for text, out in zip(texts, said, strict=False) if text.startswith("publish status")]
    assert "staged     manifests/hello/stable/42.dsse.json: new" in status
    assert "waits for  targets 2: 1 of 2 signatures, not by " in status
    trust = parse_trust(Path("trust.json").read_bytes())
    assert trust.tuf_repository == "https://releases.example.org/tuf"
    followed = client().follow()
    assert followed.published.envelope == Path("images/hello/1.0.0/manifest.dsse.json").read_bytes()
    assert followed.view.threshold == 2


def test_the_page_rotates_and_withdraws_as_it_says(place: Path) -> None:
    texts = of_page(PAGE)
    first, *_ = [index for index, text in enumerate(texts) if text.startswith("publish rotate")]
    for text in texts[:first]:
        if not text.startswith(("verify", "publish withdraw")):
            run(text)
    run("keygen -o release-c.key")
    assert "staged, not published" in run(texts[first]).stdout
    run("sign images/hello/1.0.0 --key release-a.key")
    run("sign images/hello/1.0.0 --add --key release-c.key")
    run("publish add repo images/hello/1.0.0 --key release-a.key --key release-c.key")
    # the old keys have not signed the new targets, so that the root comes first: no client is deceived
    run("publish refresh repo --key online.key")
    assert client().follow().view.roles["root"].version == 2
    (text,) = [text for text in texts if text.startswith("publish withdraw")]
    assert "staged, not published" in run(text).stdout
    run("publish sign repo --key release-c.key")
    run("publish refresh repo --key online.key")
    with pytest.raises(VerificationError) as caught:
        client().follow()
    assert caught.value.reason == "no-release"


def test_status_is_told_to_machines(place: Path) -> None:
    begin()
    run("sign images/hello/1.0.0 --key release.key")
    added = json.loads(run("publish add repo images/hello/1.0.0 --key release.key --json").stdout)
    assert (added["published"], len(added["changes"]), len(added["waiting"])) == (False, 2, 2)
    status = json.loads(run("publish status repo --json").stdout)
    assert set(status) == {"roles", "releases", "staged", "waiting"}
    assert {name: role["version"] for name, role in status["roles"].items()} == {
        "root": 1,
        "targets": 1,
        "snapshot": 1,
        "timestamp": 1,
    }
    assert status["releases"] == []
    assert status["staged"] == added["changes"]
    run("publish refresh repo --key online.key")
    status = json.loads(run("publish status repo --json").stdout)
    assert (status["releases"], status["staged"], status["waiting"]) == (["hello/stable/42"], [], [])
    assert "current    hello/stable/42" in run("publish status repo").stdout


def test_an_image_and_a_policy_are_listed_for_people(place: Path) -> None:
    begin()
    run("sign images/hello/1.0.0 --key release.key")
    run("keygen -o log.key")
    vkey = run("log init log --origin log.example.org --key log.key").stdout.strip()
    Path("policy.txt").write_text(f"log {vkey}\nquorum none\n")
    said = run(
        "publish add repo images/hello/1.0.0 --with-image --log-policy policy.txt "
        "--key release.key --key online.key"
    ).stdout
    assert "log/policy.txt: new" in said
    assert any(line.startswith("images/") and line.endswith(".efi: new") for line in said.splitlines())
    assert said.splitlines()[-1] == "published"


def test_a_release_is_withdrawn_by_its_name_or_its_manifest(place: Path) -> None:
    begin()
    run("sign images/hello/1.0.0 --key release.key")
    run("publish add repo images/hello/1.0.0 --key release.key --key online.key")
    manifest = "images/hello/1.0.0/manifest.dsse.json"
    run(f"publish withdraw repo {manifest} --reason broken --key release.key --key online.key")
    done = run("publish withdraw repo hello/stable/42 --reason broken --key release.key", code=2)
    assert isinstance(done.exception, UsageError)
    assert "not listed" in str(done.exception)
    done = run("publish withdraw repo hello-42 --reason broken --key release.key", code=2)
    assert "PRODUCT/CHANNEL/SEQUENCE" in str(done.exception)
    run("publish withdraw repo hello/stable/42 --reason boring --key release.key", code=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("publish init new --root root.key.pub --key root.key", "expected --root, --release and --online"),
        (
            "publish init repo --root root.key.pub --release release.key.pub --online online.key.pub",
            "empty dir",
        ),
        ("publish status nowhere", "no TUF repository there"),
        ("publish refresh repo", "0 of 1 signatures"),
        ("publish sign repo --key release.key", "got nothing"),
        ("publish add repo images/hello/1.0.0 --key release.key", "not there"),
        (
            "publish rotate repo --threshold 3 --key root.key",
            "targets: expected a threshold of 1 to 1, got 3",
        ),
    ],
)
def test_wrong_usage_says_what_is_expected(place: Path, text: str, message: str) -> None:
    begin()
    done = run(text, code=2)
    assert isinstance(done.exception, UsageError)
    assert message in str(done.exception)


def test_who_signs_reads_first_what_exactly_and_for_which_repository(place: Path) -> None:
    begin()
    run("sign images/hello/1.0.0 --key release.key")
    run("publish add repo images/hello/1.0.0")
    Path("mine.json").write_bytes(Path("repo/metadata/1.root.json").read_bytes())
    done = run("publish sign repo --key release.key --key online.key --first-root mine.json")
    first, *more = done.stderr.splitlines()
    assert first.startswith("signing targets 2, until 20")
    assert " sha256:" in first
    assert "signing manifests/hello/stable/42.dsse.json: new" in more
    Path("mine.json").write_bytes(b"{}")
    refused = run("publish renew repo --key release.key --first-root mine.json", code=1)
    assert "begins with another root than yours" in str(refused.exception)


def test_a_trust_file_and_its_options_belong_together(place: Path) -> None:
    begin()
    run("sign images/hello/1.0.0 --key release.key")
    run("trust --product hello --tuf-root repo/metadata/1.root.json --tpm-root maker.pem -o trust.json")
    run("trust --product hello --release-key release.key.pub --tpm-root maker.pem -o keys.json")
    server = "https://127.0.0.1:1"
    done = run(f"verify {server} --trust keys.json --tuf repo --manifest images/hello/1.0.0", code=2)
    assert "--tuf: expected a trust file that pins a TUF root" in str(done.exception)
    done = run(f"verify {server} --trust keys.json", code=2)
    assert "expected --manifest" in str(done.exception)
    # whoever pins a root asks the repository, also with a manifest and a release at hand
    done = run(f"verify {server} --trust trust.json --manifest images/hello/1.0.0", code=2)
    assert "expected the place of the TUF repository" in str(done.exception)
    done = run(f"verify {server} --trust trust.json --tuf repo", code=3)
    assert isinstance(done.exception, VerificationError)
    assert done.exception.reason == "no-release"
    done = run(f"verify {server} --trust trust.json --tuf repo --manifest images/hello/1.0.0", code=3)
    assert isinstance(done.exception, VerificationError)
    assert (done.exception.step, done.exception.reason) == ("M3", "not-a-target")
