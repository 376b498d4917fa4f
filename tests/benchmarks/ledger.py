"""What the static half of the ledger costs: for the hello image, and for one whose tree has 300 MB."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from blindbuild.assemble.tree import Tree, TreeEntry, file_entry
from blindbuild.audit.channels import compute_ledger
from blindbuild.audit.image import LedgerInputs
from tests.fakes.ledger_image import LISTING, clean_parts, dynamic_elf, render_listing

MB = 1_000_000
PROGRAM = Path(sys.executable).parent / "blindbuild"
LIBRARIES, LIBRARY_BYTES = 215, 1 * MB
SOURCES, SOURCE_BYTES = 4000, 25_000  # like the packages of a large framework

Say = Callable[[str, str, str], None]
Time = Callable[[Callable[[], object], int], float]


def bench_ledger(say: Say, best_of: Time, image: Path | None) -> None:
    """Print what it takes to compute a ledger, and what the verb takes as a whole."""
    if image is not None:
        command = [str(PROGRAM), "channels", str(image)]
        run = lambda: subprocess.run(command, capture_output=True, check=True)  # noqa: E731
        say("channels of hello, whole process", f"{best_of(run, 3):.2f} s", "2 s")
    inputs, size = large_inputs()
    taken = best_of(lambda: compute_ledger("hello", "1.0.0", inputs).render(), 1)
    say(f"ledger of a tree of {size / MB:.0f} MB, {LIBRARIES + SOURCES} files", f"{taken:.2f} s", "20 s")


def large_inputs() -> tuple[LedgerInputs, int]:
    """Return an image whose workload has libraries and Python files, and the size of its tree."""
    parts, chance = clean_parts(), random.Random(1)
    library = dynamic_elf("memcpy", "cos")
    more: dict[bytes, TreeEntry] = {}
    for number in range(LIBRARIES):
        filler = chance.randbytes(LIBRARY_BYTES - len(library))
        more[b"workload/lib/lib%d.so" % number] = file_entry(library + filler)
    words = ["import os", "def work(value):", "    return socket_like(value)", "# a comment of some length"]
    for number in range(SOURCES):
        text = "\n".join(chance.choices(words, k=SOURCE_BYTES // 25))
        more[b"workload/usr/lib/python3/dist-packages/pkg%d/mod.py" % number] = file_entry(text.encode())
    rest = {name: entry for name, entry in parts.tree.items() if name != LISTING}
    listed = Tree({**rest, **more})
    tree = Tree({**listed, LISTING: file_entry(render_listing(listed), 0o400)})
    return replace(parts, tree=tree).inputs(), sum(len(entry.data) for entry in tree.values())


def main() -> None:
    """Run this part alone; the image of hello is an argument, if there is one."""
    from tests.benchmarks.__main__ import best_of, say

    bench_ledger(say, best_of, Path(sys.argv[1]) if len(sys.argv) > 1 else None)


if __name__ == "__main__":
    main()
