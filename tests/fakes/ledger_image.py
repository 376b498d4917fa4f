"""A small image with nothing to find, part by part, so that a test can spoil one part."""

from __future__ import annotations

import functools
import re
import struct
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from blindbuild.assemble.command_line import kernel_command_line
from blindbuild.assemble.initramfs import leave_uncompressed, pack_initramfs
from blindbuild.assemble.kernel_policy import load_policy
from blindbuild.assemble.rootfs import GateConf, InitConf, assemble_rootfs, render_listing
from blindbuild.assemble.tree import Tree, TreeEntry, file_entry
from blindbuild.audit.image import LedgerInputs, Waiver
from blindbuild.formats.pe import NewSection, append_sections
from tests.fakes.guest_filters import made_filters
from tests.fakes.pe_image import make_pe

KERNEL_CONFIG = Path(__file__).resolve().parents[1] / "golden" / "kernel.config"  # of a real product build
LISTING = b".blindbuild.tree"
_LANDMARKS = "T _stext,T _text,B _end,T start_kernel,D sys_call_table,T __x64_sys_read,D virtio_net_driver"


@dataclass(frozen=True, slots=True)
class Parts:
    """What an image is made of; `respoil` changes the finished archive, where no assembler would."""

    config: str
    system_map: str
    tree: Tree
    command_line: str
    sections: tuple[NewSection, ...] = ()
    respoil: Callable[[bytes], bytes] = leave_uncompressed
    waivers: tuple[Waiver, ...] = ()
    debug: bool = False

    def with_file(self, path: str, entry: TreeEntry) -> Parts:
        """Return the image with one entry more, or another one, and a listing that knows it."""
        rest = {name: value for name, value in self.tree.items() if name != LISTING}
        listed = Tree(rest | {path.encode(): entry})
        return replace(self, tree=Tree({**listed, LISTING: file_entry(render_listing(listed), 0o400)}))

    def without_file(self, path: str) -> Parts:
        """Return the image without one entry."""
        listed = Tree(
            {name: value for name, value in self.tree.items() if name not in (LISTING, path.encode())}
        )
        return replace(self, tree=Tree({**listed, LISTING: file_entry(render_listing(listed), 0o400)}))

    def with_symbol(self, kind: str, name: str) -> Parts:
        """Return the image with one symbol more in its System.map."""
        return replace(self, system_map=f"{self.system_map}ffffffff81000020 {kind} {name}\n")

    def with_config(self, old: str, new: str) -> Parts:
        """Return the image with one line of the kernel's configuration changed."""
        assert old in self.config, old
        return replace(self, config=self.config.replace(old, new))

    def inputs(self) -> LedgerInputs:
        """Return what the ledger looks at."""
        initrd = self.respoil(pack_initramfs(self.tree, leave_uncompressed))
        sections = (
            NewSection(".cmdline", self.command_line.encode()),
            NewSection(".initrd", initrd),
            *self.sections,
            NewSection(".linux", b"kernel"),
        )
        return LedgerInputs(
            config=self.config,
            policy=load_policy(debug=self.debug),
            system_map=self.system_map,
            uki=append_sections(make_pe(), sections),
            debug=self.debug,
            waivers=self.waivers,
        )


def clean_parts() -> Parts:
    """Return the parts of an image with nothing to find."""
    landmarks = _LANDMARKS.split(",")
    names = [*landmarks, "W __x64_sys_syslog", *(f"t some_function_{number}" for number in range(10_000))]
    program, command_line = static_elf(), kernel_command_line(debug=False)
    config = re.sub(r"CONFIG_CMDLINE=.*", f'CONFIG_CMDLINE="{command_line}"', KERNEL_CONFIG.read_text())
    return Parts(
        config=config,
        system_map="".join(f"ffffffff81000000 {name}\n" for name in names),
        tree=assemble_rootfs(
            init=program,
            gate=program,
            filters=made_filters(),
            init_conf=InitConf(None, 443, 1 << 24, 30, 4, ("/app/hello",)),
            gate_conf=GateConf(("/v1/hello",), 1 << 20, 1 << 20, 30, 4),
            workload=Tree({b"app/hello": file_entry(program, 0o555)}),
        ),
        command_line=command_line,
    )


def static_elf(more: bytes = b"") -> bytes:
    """Return a program without an interpreter, libraries or symbols: an ELF header and one PT_LOAD."""
    size = 64 + 56 + len(more)
    header = struct.pack("<4sBBBB8x", b"\x7fELF", 2, 1, 1, 0)
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0x400000, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    return header + struct.pack("<IIQQQQQQ", 1, 5, 0, 0x400000, 0x400000, size, size, 0x1000) + more


@functools.cache
def dynamic_elf(*functions: str) -> bytes:
    """Return a shared library, made by the machine's compiler, that calls functions it does not have."""
    source = "".join(
        f"int {name}(void); int call_{name}(void) {{ return {name}(); }}\n" for name in functions
    )
    with tempfile.TemporaryDirectory() as place:
        target = Path(place) / "library.so"
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-fno-builtin", "-w", "-nostdlib", "-o", target, "-x", "c", "-"],
            input=source.encode(),
            check=True,
        )
        return target.read_bytes()
