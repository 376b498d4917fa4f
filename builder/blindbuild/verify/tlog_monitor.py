"""What the owner of a product wants to know of a log: is there a release of it that he did not make?

The whole log is read: its entries must lead to the signed root, so that none can be hidden from him and shown
to a client.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from blindbuild.digest import Digest
from blindbuild.errors import ManifestError
from blindbuild.formats.checkpoint import Checkpoint
from blindbuild.formats.merkle import leaf_hash, tree_root
from blindbuild.manifest.log_entry import LogEntry, parse_log_entry
from blindbuild.verify.checklist import Checklist, refuse

MONITOR_TITLES = {
    "M12": "the checkpoint is signed by the log and seen by its witnesses",
    "M13": "the log is the one that was seen before, and only grew",
    "L1": "the entries lead to the checkpoint",
    "L2": "every release of the product was made by its owner",
    "L3": "no sequence has two statements",
}
MAX_ENTRIES = 1 << 20  # entries of a log that are read whole; bounds time and memory
_SHOWN = 8  # strangers that a message names; the report has all


@dataclass(frozen=True, slots=True)
class PlacedEntry:
    """An entry and its index in the log."""

    index: int
    entry: LogEntry

    @property
    def in_words(self) -> str:
        """The release for people."""
        entry = self.entry
        return (
            f"entry {self.index}: {entry.product} {entry.channel} sequence {entry.sequence}, "
            f"statement {entry.statement.hex}, envelope {entry.envelope.hex}"
        )


@dataclass(frozen=True, slots=True)
class MonitorReport:
    """What a log has of a product.

    Attributes:
        releases: the product's, in the log's order.
        strangers: those of them that are on no list of the owner's.
        unreadable: indexes of entries that are none of ours; no client can accept one as a release.
    """

    size: int
    releases: tuple[PlacedEntry, ...]
    strangers: tuple[PlacedEntry, ...]
    unreadable: tuple[int, ...]


def judge_entries(
    steps: Checklist,
    entries: Iterable[bytes],
    checkpoint: Checkpoint,
    *,
    product: str,
    known: Collection[Digest],
) -> MonitorReport | None:
    """Run L1 to L3 over all entries of a log; return what it has of the product if they are its entries.

    Args:
        steps: where the outcomes go; M12 was run.
        entries: all of the log's, in order.
        checkpoint: accepted.
        product: the owner's.
        known: SHA-256 of his envelopes or of his statements.
    """
    report = steps.run("L1", lambda: _read_all(entries, checkpoint, product, known), needs=("M12",))
    if report is not None and report.unreadable:
        steps.warn(f"{len(report.unreadable)} entries of the log are none of ours; no client accepts them")
    steps.run("L2", lambda: _no_strangers(report, product), needs=("L1",))
    steps.run("L3", lambda: _no_equivocation(report), needs=("L1",))
    return report


def _read_all(
    entries: Iterable[bytes], checkpoint: Checkpoint, product: str, known: Collection[Digest]
) -> tuple[MonitorReport, str]:
    if checkpoint.size > MAX_ENTRIES:
        raise refuse("L1", "log-too-large", f"expected at most {MAX_ENTRIES} entries, got {checkpoint.size}")
    hashes: list[bytes] = []
    releases: list[PlacedEntry] = []
    unreadable: list[int] = []
    for index, data in enumerate(entries):
        hashes.append(leaf_hash(data))
        try:
            entry = parse_log_entry(data)
        except ManifestError:
            unreadable.append(index)
            continue
        if entry.product == product:
            releases.append(PlacedEntry(index, entry))
    if len(hashes) != checkpoint.size or tree_root(hashes) != checkpoint.root:
        raise refuse(
            "L1",
            "entries-differ",
            f"expected the {checkpoint.size} entries that the log signed, got {len(hashes)} others",
            hint="the log's files are damaged, or it shows others another log: keep the checkpoint",
        )
    strangers = tuple(
        placed
        for placed in releases
        if placed.entry.envelope not in known and placed.entry.statement not in known
    )
    report = MonitorReport(len(hashes), tuple(releases), strangers, tuple(unreadable))
    return report, f"{len(hashes)} entries, {len(releases)} of {product}"


def _no_strangers(report: MonitorReport | None, product: str) -> tuple[None, str]:
    strangers = () if report is None else report.strangers
    if strangers:
        named = "; ".join(placed.in_words for placed in strangers[:_SHOWN])
        raise refuse(
            "L2",
            "unknown-release",
            f"expected releases of {product} that are on your list, got {len(strangers)} others: {named}",
            hint="if you did not make them, somebody else used a release key: revoke it, and ask who can "
            "write to the log",
        )
    return None, f"{0 if report is None else len(report.releases)} releases, all known"


def _no_equivocation(report: MonitorReport | None) -> tuple[None, str]:
    seen: dict[tuple[str, int], PlacedEntry] = {}
    for placed in () if report is None else report.releases:
        key = placed.entry.channel, placed.entry.sequence
        first = seen.setdefault(key, placed)
        if first.entry.statement != placed.entry.statement:
            raise refuse(
                "L3",
                "equivocation",
                f"expected one statement for {key[0]} sequence {key[1]}, got two: {first.in_words}; "
                f"{placed.in_words}",
                hint="clients refuse the one they see second; raise `sequence` with every release",
            )
    return None, f"{len(seen)} sequences"
