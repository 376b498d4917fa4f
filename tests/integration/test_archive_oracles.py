"""Archives and file systems as the established tools write and read them."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from blindbuild.formats.ar import read_ar
from blindbuild.formats.cpio import CpioEntry, read_newc, write_newc
from blindbuild.formats.deb import read_deb
from blindbuild.formats.fat import read_fat, write_fat
from blindbuild.formats.tar import EntryKind
from tests.fakes.deb import CONTROL

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
ENTRIES = (
    CpioEntry(b".first", 0o100400, b"x"),
    CpioEntry(b"dir", 0o40555),
    CpioEntry(b"dir/file", 0o104755, b"content"),
    CpioEntry(b"link", 0o120777, b"dir/file"),
    CpioEntry(b"null", 0o20666, rdev=(1, 3)),
)


def run(*command: str, cwd: Path, stdin: bytes = b"") -> str:
    program = shutil.which(command[0], path=PATH)
    if program is None:
        pytest.skip(f"{command[0]} is not installed")
    environment = {"PATH": PATH, "LC_ALL": "C", "TZ": "UTC", "MTOOLS_SKIP_CHECK": "0"}
    done = subprocess.run([program, *command[1:]], cwd=cwd, input=stdin, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr.decode() + done.stdout.decode()
    return done.stdout.decode()


def make_files(folder: Path) -> Path:
    folder.mkdir()
    (folder / "dir").mkdir(0o755)
    (folder / "dir" / "file").write_bytes(b"content")
    (folder / "dir" / "file").chmod(0o755)
    (folder / "link").symlink_to("dir/file")
    os.mkfifo(folder / "pipe")
    return folder


def test_cpio_lists_what_was_written(tmp_path: Path) -> None:
    lines = run(
        "cpio", "--list", "--verbose", "--quiet", cwd=tmp_path, stdin=write_newc(ENTRIES)
    ).splitlines()
    assert [line.split()[0] for line in lines] == [
        "-r--------",
        "dr-xr-xr-x",
        "-rwsr-xr-x",
        "lrwxrwxrwx",
        "crw-rw-rw-",
    ]
    names = [line.partition(" 1970 ")[2] for line in lines]
    assert names == [".first", "dir", "dir/file", "link -> dir/file", "null"]
    assert lines[-1].split()[4:6] == ["1,", "3"]
    assert all("Jan  1  1970" in line for line in lines)


def test_cpio_unpacks_what_was_written(tmp_path: Path) -> None:
    archive = write_newc(entry for entry in ENTRIES if not stat.S_ISCHR(entry.mode))
    run("cpio", "--extract", "--quiet", "--no-preserve-owner", cwd=tmp_path, stdin=archive)
    assert (tmp_path / "dir" / "file").read_bytes() == b"content"
    assert (tmp_path / "link").readlink() == Path("dir/file")
    assert stat.S_IMODE((tmp_path / ".first").stat().st_mode) == 0o400


def test_what_cpio_writes_is_read(tmp_path: Path) -> None:
    folder = make_files(tmp_path / "files")
    names = b"link\ndir\npipe\ndir/file\n"
    program = shutil.which("cpio", path=PATH)
    if program is None:
        pytest.skip("cpio is not installed")
    command = [program, "--create", "--format=newc", "--quiet"]
    archive = subprocess.run(command, cwd=folder, input=names, capture_output=True, check=True).stdout
    entries = {entry.path: entry for entry in read_newc(archive)}
    assert list(entries) == names.split()
    assert entries[b"dir/file"].data == b"content"
    assert entries[b"dir/file"].mode == 0o100755
    assert entries[b"link"].data == b"dir/file"
    assert stat.S_ISFIFO(entries[b"pipe"].mode)
    assert entries[b"dir"].mtime == int((folder / "dir").stat().st_mtime)


def test_what_gnu_ar_writes_is_read(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"1")
    (tmp_path / "two").write_bytes(b"22")
    run("ar", "rcD", "archive", "one", "two", cwd=tmp_path)
    members = read_ar((tmp_path / "archive").read_bytes())
    # GNU ar puts an empty index before the members only if there are objects among them.
    assert {member.name: bytes(member.data) for member in members} == {"one": b"1", "two": b"22"}


@pytest.mark.parametrize("compression", ["xz", "gzip", "none"])
def test_what_dpkg_deb_writes_is_read(tmp_path: Path, compression: str) -> None:
    folder = tmp_path / "package"
    long = "usr/share/" + "/".join(["long-directory-name"] * 8) + "/file"
    for path, data in (("DEBIAN/control", CONTROL), ("usr/bin/hello", b"program" * 5000), (long, b"")):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    (folder / "usr/bin/hello").chmod(0o755)
    (folder / "usr/bin/again").hardlink_to(folder / "usr/bin/hello")
    (folder / "usr/bin/link").symlink_to("/" + long)
    run(
        "dpkg-deb",
        "--root-owner-group",
        "--build",
        f"-Z{compression}",
        "package",
        "package.deb",
        cwd=tmp_path,
    )
    package = read_deb((tmp_path / "package.deb").read_bytes())
    assert (package.package, package.version, package.architecture) == ("hello", "1:2.10-3", "amd64")
    entries = {entry.path.decode(): entry for entry in package.entries}
    assert entries[long].data == b""
    assert entries["usr/bin/link"].target == f"/{long}".encode()
    pair = [entries["usr/bin/again"], entries["usr/bin/hello"]]
    assert sorted(entry.kind.name for entry in pair) == ["FILE", "HARDLINK"]
    assert {entry.data for entry in pair} == {b"", b"program" * 5000}
    assert all(entry.mode == 0o755 for entry in pair)
    listed = run("dpkg-deb", "--contents", "package.deb", cwd=tmp_path).splitlines()
    assert len(listed) == len(entries) + 1
    assert sum(entry.kind is EntryKind.DIRECTORY for entry in entries.values()) == sum(
        line.startswith("d") for line in listed[1:]
    )


@pytest.mark.parametrize("size", [0, 1, 512, 513, 3_700_000, 40_000_000])
def test_fsck_finds_nothing_and_mtools_reads_what_was_written(tmp_path: Path, size: int) -> None:
    files = {"EFI/BOOT/BOOTX64.EFI": os.urandom(size), "README.TXT": b"hello\n"}
    image = write_fat(files, volume_id=0x1234_5678, label="BLINDBUILD")
    (tmp_path / "image").write_bytes(image)
    report = run("fsck.vfat", "-n", "-v", "image", cwd=tmp_path)
    assert "16 bit entries" in report
    assert "Differences" not in report
    listing = run("mdir", "-i", "image", "-/", "-b", "::", cwd=tmp_path)
    assert set(listing.split()) == {"::/README.TXT", "::/EFI/", "::/EFI/BOOT/", "::/EFI/BOOT/BOOTX64.EFI"}
    assert "1234-5678" in run("mdir", "-i", "image", "::", cwd=tmp_path)
    run("mcopy", "-i", "image", "::EFI/BOOT/BOOTX64.EFI", "copy", cwd=tmp_path)
    assert (tmp_path / "copy").read_bytes() == files["EFI/BOOT/BOOTX64.EFI"]


def test_what_mkfs_and_mtools_write_is_read(tmp_path: Path) -> None:
    (tmp_path / "boot.efi").write_bytes(b"program" * 1000)
    run("mkfs.vfat", "-F16", "-s1", "-n", "ORACLE", "-C", "image", "8192", cwd=tmp_path)
    run("mmd", "-i", "image", "::EFI", "::EFI/BOOT", cwd=tmp_path)
    run("mcopy", "-i", "image", "boot.efi", "::EFI/BOOT/BOOTX64.EFI", cwd=tmp_path)
    assert read_fat((tmp_path / "image").read_bytes()) == {"EFI/BOOT/BOOTX64.EFI": b"program" * 1000}
