"""A small Debian archive in a directory, made and signed by Debian's own tools and GnuPG."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

TOOLS = ("dpkg-deb", "dpkg-scanpackages", "gpg", "apt-get")
NEVER = datetime(2126, 1, 1, tzinfo=UTC)


def missing_tools() -> list[str]:
    """Return which of the tools are not here."""
    return [name for name in TOOLS if shutil.which(name) is None]


def run(*arguments: str, cwd: Path | None = None) -> str:
    """Run a program and return what it prints."""
    return subprocess.run(arguments, cwd=cwd, check=True, capture_output=True, text=True).stdout


def write_control(package: Package, path: Path) -> None:
    """Write a package's control file."""
    fields = [f"Package: {package.name}", f"Version: {package.version}", "Architecture: amd64"]
    fields += ["Maintainer: Nobody <nobody@example.org>", "Description: made for a test"]
    fields += [f"Depends: {package.depends}"] if package.depends else []
    fields += [f"Recommends: {package.recommends}"] if package.recommends else []
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(fields) + "\n")


class SigningKey:
    """A GnuPG key in a home directory of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(mode=0o700)
        self._gpg("--quick-generate-key", "--passphrase", "", "test archive", "ed25519", "sign", "never")
        self.keyring = home / "keyring.gpg"
        self._gpg("--output", str(self.keyring), "--export")

    def sign(self, text: Path, target: Path) -> None:
        target.unlink(missing_ok=True)
        self._gpg("--output", str(target), "--clearsign", str(text))

    def _gpg(self, *arguments: str) -> None:
        run("gpg", "--batch", "--quiet", "--homedir", str(self.home), *arguments)


@dataclass(frozen=True)
class Package:
    """A package to be made; `source` names its directory in the pool."""

    name: str
    version: str = "1.0-1"
    depends: str = ""
    recommends: str = ""
    source: str = ""
    archive: str = "debian"


@dataclass
class DebianArchive:
    """The archives `debian` and `debian-security` below `root`; `scratch` keeps packages once made."""

    root: Path
    key: SigningKey
    scratch: Path

    @property
    def mirror(self) -> str:
        return f"file://{self.root}/debian"

    def publish(self, suite: str, *packages: Package) -> None:
        """Make a suite hold exactly these packages, with fresh signed indexes."""
        for archive, names in (
            ("debian", (suite, f"{suite}-updates")),
            ("debian-security", (f"{suite}-security",)),
        ):
            base = self.root / archive
            mine = [package for package in packages if package.archive == archive]
            for package in mine:
                self._build(package)
            for name in names:
                self._index(base, name, mine if not name.endswith("-updates") else [])

    def path_of(self, package: Package) -> Path:
        pool = "pool/updates/main" if package.archive == "debian-security" else "pool/main"
        source = package.source or package.name
        file = f"{package.name}_{package.version.partition(':')[2] or package.version}_amd64.deb"
        return self.root / package.archive / pool / source[0] / source / file

    def _build(self, package: Package) -> None:
        target = self.path_of(package)
        tree = self.scratch / hashlib.sha256(repr(package).encode()).hexdigest()[:16]
        target.parent.mkdir(parents=True, exist_ok=True)
        made = Path(f"{tree}.deb")
        if not made.is_file():
            write_control(package, tree / "DEBIAN" / "control")
            run("dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(made))
        shutil.copyfile(made, target)

    def _index(self, base: Path, suite: str, packages: list[Package]) -> None:
        folder = base / "dists" / suite / "main" / "binary-amd64"
        folder.mkdir(parents=True, exist_ok=True)
        (base / "pool").mkdir(exist_ok=True)
        stanzas = (
            run("dpkg-scanpackages", "--multiversion", "pool", cwd=base).split("\n\n") if packages else []
        )
        wanted = [f"\nFilename: {self.path_of(package).relative_to(base)}\n" for package in packages]
        chosen = [stanza for stanza in stanzas if any(line in stanza for line in wanted)]
        assert len(chosen) == len(packages)
        (folder / "Packages").write_text("".join(f"{stanza.strip()}\n\n" for stanza in chosen))
        self.sign(base, suite)

    def sign(self, base: Path, suite: str, *, key: SigningKey | None = None, until: datetime = NEVER) -> None:
        """Write InRelease for what the index holds now."""
        folder = base / "dists" / suite
        data = (folder / "main" / "binary-amd64" / "Packages").read_bytes()
        release = folder / "Release"
        release.write_text(
            f"Origin: Test\nSuite: {suite}\nCodename: {suite}\n"
            f"Date: {format_datetime(datetime.now(UTC) - timedelta(days=2), usegmt=True)}\n"
            f"Valid-Until: {format_datetime(until, usegmt=True)}\n"
            "Architectures: amd64\nComponents: main\nSHA256:\n"
            f" {hashlib.sha256(data).hexdigest()} {len(data)} main/binary-amd64/Packages\n"
        )
        (key or self.key).sign(release, folder / "InRelease")
        release.unlink()
