"""A transparency log as static files: appended to by one key's owner, served by any web server.

Files are written in an order that a kill at any moment does not harm: envelopes, entries and hashes first;
then the signed checkpoint where nobody looks, so that the log never signs two trees of one size; then, once
a quorum of witnesses has cosigned, the checkpoint that everybody reads.

Source: C2SP tlog-tiles, tlog-checkpoint; docs/spec/transparency-log.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from blindbuild.client.log_files import read_log_file
from blindbuild.client.state import locked
from blindbuild.errors import BlindbuildError, BuildError, TlogError, UsageError
from blindbuild.formats.checkpoint import Checkpoint, UnverifiedCheckpoint, parse_checkpoint
from blindbuild.formats.cosignature import judge_key, sign_checkpoint
from blindbuild.formats.merkle import (
    EMPTY_ROOT,
    ReadSubtree,
    leaf_hash,
    prove_inclusion,
    read_root,
    tree_root,
    verify_inclusion,
)
from blindbuild.formats.note import (
    ED25519,
    MAX_NOTE,
    NoteSignature,
    SignatureState,
    UnverifiedNote,
    VerifierKey,
    make_vkey,
    write_note,
)
from blindbuild.formats.tlog_proof import UnverifiedProof, write_tlog_proof
from blindbuild.formats.tlog_tiles import (
    CHECKPOINT_PATH,
    MAX_BUNDLE,
    MAX_ENTRY,
    TILE_WIDTH,
    Tile,
    TileReader,
    new_tiles,
    parse_bundle,
    tile_at,
    write_bundle,
)
from blindbuild.host.files import sync_directory, write_atomically
from blindbuild.publish.sign import SigningKey

PENDING_PATH = ".checkpoint.signed"  # signed, perhaps shown to witnesses, not yet published
_LOCK_PATH = ".lock"
_RESTORE = "restore the log's directory as it was last published; never start it again under the same name"

CollectCosignatures = Callable[[UnverifiedCheckpoint, ReadSubtree, int], Sequence[NoteSignature]]
"""(signed checkpoint, its tree, size published before) -> cosignatures; raises when the quorum is missed."""


@dataclass(frozen=True, slots=True)
class LogSigner:
    """Who signs checkpoints; the key's name is the log's origin."""

    key: VerifierKey
    signing_key: SigningKey

    @classmethod
    def of(cls, origin: str, signing_key: SigningKey) -> LogSigner:
        """Return the signer of a log.

        Raises:
            TlogError: an origin that no key name may be.
        """
        return cls(make_vkey(origin, ED25519, signing_key.public.spki[-32:]), signing_key)

    def sign(self, size: int, root: bytes) -> UnverifiedCheckpoint:
        """Return a checkpoint with the log's signature."""
        checkpoint = Checkpoint(self.key.name, size, root)
        signature = sign_checkpoint(checkpoint, self.key, self.signing_key.sign)
        return UnverifiedCheckpoint(checkpoint, UnverifiedNote(checkpoint.text, (signature,)))


class TransparencyLog:
    """A log's directory in the hands of its owner.

    Args:
        root: the directory that is served.
        signer: the log's key.
        collect: asks witnesses; None for a log without any.
    """

    def __init__(self, root: Path, signer: LogSigner, *, collect: CollectCosignatures | None = None) -> None:
        self._root = root
        self._signer = signer
        self._collect = collect

    def create(self) -> None:
        """Begin an empty log.

        Raises:
            UsageError: there is something already.
        """
        if self._root.exists() and any(self._root.iterdir()):
            raise UsageError(f"{self._root}: expected an empty directory for a new log")
        self._root.mkdir(parents=True, exist_ok=True)
        signed = self._signer.sign(0, EMPTY_ROOT)
        write_atomically(self._root / CHECKPOINT_PATH, write_note(signed.note))

    def append(self, entries: Sequence[bytes]) -> tuple[int, ...]:
        """Add entries that are not in the log yet, publish, and return where each is.

        With no entries, what a killed run left is finished, or the checkpoint is cosigned once more.

        Raises:
            UsageError: there is no log, or it is another key's.
            BuildError: its files contradict its checkpoint.
            BlindbuildError: the quorum was missed; nothing was published, the next run goes on from here.
        """
        if any(len(entry) > MAX_ENTRY for entry in entries):
            raise UsageError(f"expected entries of at most {MAX_ENTRY} bytes")
        try:
            with locked(self._lock_path()):
                published = self.checkpoint()
                signed = max(self._pending() or published, published, key=_size)
                self._check_tree(signed.checkpoint)
                signed, places = self._grow(signed, entries)
                self._publish(signed, published)
        except OSError as error:
            raise BlindbuildError(f"{self._root}: {(error.strerror or str(error)).lower()}") from error
        return places

    def prove(self, index: int) -> bytes:
        """Return the `.tlog-proof` of an entry, under the published checkpoint.

        Raises:
            TlogError: there is no such entry, or the files do not lead from it to the checkpoint.
        """
        signed = self.checkpoint()
        size, root = signed.checkpoint.size, signed.checkpoint.root
        tiles = TileReader(self.read, size)
        path = prove_inclusion(tiles.subtree, index, size)
        verify_inclusion(tiles.subtree(0, index), index, size, path, root)
        return write_tlog_proof(UnverifiedProof(index, path, signed))

    def checkpoint(self) -> UnverifiedCheckpoint:
        """Return the published checkpoint, which is this key's."""
        signed = self._signed(CHECKPOINT_PATH)
        if signed is None:
            raise UsageError(
                f"{self._root}: expected a log, got no checkpoint",
                hint=f"a new log begins with `blindbuild log init`; if this is an old one, {_RESTORE}",
            )
        return signed

    def read(self, path: str, limit_bytes: int) -> bytes | None:
        """Return a file of the log, or None."""
        return read_log_file(self._root, path, limit_bytes)

    def store_envelope(self, name: str, envelope: bytes) -> None:
        """Serve a manifest below `envelope/`, by its SHA-256."""
        if self.read(f"envelope/{name}", len(envelope) + 1) != envelope:
            self._write(f"envelope/{name}", envelope)

    def _signed(self, path: str) -> UnverifiedCheckpoint | None:
        data = self.read(path, MAX_NOTE)
        if data is None:
            return None
        try:
            signed = parse_checkpoint(data)
        except TlogError as error:
            raise BuildError(f"{self._root / path}: {error.message}", hint=_RESTORE) from error
        key = self._signer.key
        if signed.checkpoint.origin != key.name:
            raise UsageError(f"{self._root}: expected log {key.name}, got {signed.checkpoint.origin}")
        if judge_key(signed, key).state is not SignatureState.GOOD:
            raise UsageError(f"{self._root}: expected a checkpoint signed by this key, got another's")
        return signed

    def _pending(self) -> UnverifiedCheckpoint | None:
        """Return what a run has signed and not published: it may have been seen, the log goes on from it."""
        return self._signed(PENDING_PATH)

    def _check_tree(self, checkpoint: Checkpoint) -> None:
        tiles = TileReader(self.read, checkpoint.size)
        try:
            root = read_root(tiles.subtree, checkpoint.size)
            last = list(self._last_entries(checkpoint.size))
            hashes = self._last_hashes(tiles, checkpoint.size)
        except TlogError as error:
            raise BuildError(f"{self._root}: {error.message}", hint=_RESTORE) from error
        if root != checkpoint.root or [leaf_hash(entry) for entry in last] != hashes:
            raise BuildError(
                f"{self._root}: expected files that lead to the signed checkpoint of {checkpoint.size} "
                "entries, got others",
                hint=_RESTORE,
            )

    def _last_entries(self, size: int) -> Sequence[bytes]:
        width = size % TILE_WIDTH
        if not width:
            return ()
        tile = tile_at(None, size // TILE_WIDTH, size)
        data = self.read(tile.path, MAX_BUNDLE)
        if data is None:
            raise TlogError(f"the log has no {tile.path}")
        return parse_bundle(data, width)

    def _last_hashes(self, tiles: TileReader, size: int) -> list[bytes]:
        return list(tiles.hashes(tile_at(0, size // TILE_WIDTH, size))) if size % TILE_WIDTH else []

    def _grow(
        self, signed: UnverifiedCheckpoint, entries: Sequence[bytes]
    ) -> tuple[UnverifiedCheckpoint, tuple[int, ...]]:
        size = signed.checkpoint.size
        places = self._places(size)
        added: list[bytes] = []
        for entry in entries:
            if leaf_hash(entry) not in places:
                places[leaf_hash(entry)] = size + len(added)
                added.append(entry)
        if added:
            self._write_tiles(size, added)
            after = size + len(added)
            root = read_root(TileReader(self.read, after).subtree, after)
            signed = self._signer.sign(after, root)
            self._write(PENDING_PATH, write_note(signed.note))
        return signed, tuple(places[leaf_hash(entry)] for entry in entries)

    def _places(self, size: int) -> dict[bytes, int]:
        tiles = TileReader(self.read, size)
        count = (size + TILE_WIDTH - 1) // TILE_WIDTH
        hashes = (value for index in range(count) for value in tiles.hashes(tile_at(0, index, size)))
        places: dict[bytes, int] = {}
        for index, value in enumerate(hashes):
            places.setdefault(value, index)
        return places

    def _write_tiles(self, old: int, added: Sequence[bytes]) -> None:
        new = old + len(added)
        last = list(self._last_entries(old))
        entries = dict(enumerate((*last, *added), start=old - len(last)))
        for tile in new_tiles(old, new):
            places = range(tile.first, tile.first + tile.width)
            if tile.level is None:
                data = write_bundle([entries[place] for place in places])
            elif tile.level == 0:
                data = b"".join(leaf_hash(entries[place]) for place in places)
            else:
                data = b"".join(self._tile_root(tile.level - 1, place, new) for place in places)
            self._write(tile.path, data)

    def _tile_root(self, level: int, index: int, size: int) -> bytes:
        # a level is written after the one below it
        return tree_root(TileReader(self.read, size).hashes(Tile(level, index, TILE_WIDTH)))

    def _publish(self, signed: UnverifiedCheckpoint, published: UnverifiedCheckpoint) -> None:
        if self._collect is not None:
            tiles = TileReader(self.read, signed.checkpoint.size)
            cosignatures = self._collect(signed, tiles.subtree, published.checkpoint.size)
            own = tuple(s for s in signed.note.signatures if s.key_id == self._signer.key.key_id)
            note = UnverifiedNote(signed.note.text, (*own[:1], *cosignatures))
            signed = UnverifiedCheckpoint(signed.checkpoint, note)
        self._write(CHECKPOINT_PATH, write_note(signed.note))
        (self._root / PENDING_PATH).unlink(missing_ok=True)
        sync_directory(self._root)

    def _lock_path(self) -> Path:
        if not self._root.is_dir():
            raise UsageError(
                f"{self._root}: expected a log's directory",
                hint="a new log begins with `blindbuild log init`",
            )
        return self._root / _LOCK_PATH

    def _write(self, path: str, data: bytes) -> None:
        place = self._root / path
        for directory in _missing(place.parent):
            directory.mkdir(exist_ok=True)
            sync_directory(directory.parent)
        write_atomically(place, data)


def _size(signed: UnverifiedCheckpoint) -> int:
    return signed.checkpoint.size


def _missing(directory: Path) -> Iterator[Path]:
    """Yield the directories that are not there yet, the outermost first."""
    if not directory.exists():
        yield from _missing(directory.parent)
        yield directory
