"""Every error blindbuild raises on purpose, as one tree.

BlindbuildError                    exit 1: could not do it
├── UsageError                     exit 2: wrong usage
│   └── RecipeError                a mistake in a recipe, with file, line and column
├── FormatError                    bytes that are not what they claim to be
│   ├── ArchiveError               ar, tar, cpio, FAT
│   ├── PeError                    PE images
│   ├── CanonicalError             JSON that is not strict or not canonical
│   ├── EnvelopeError              DSSE
│   ├── EifError                   AWS Nitro Enclave images
│   ├── EventLogError              TCG event logs
│   ├── TlogError                  notes, checkpoints, tiles and proofs of a transparency log
│   └── TpmStructureError          TPM 2.0 structures
├── LockError                      the lock and the world disagree
├── FetchError                     an input cannot be had, or is not the locked one
├── StoreError                     the local store is damaged
├── ToolError                      a program is missing or failed
├── BuildError                     a stage could not do its work
│   └── PolicyError                a result breaks a rule (kernel policy, file list)
├── MeasureError                   a value cannot be predicted
├── ManifestError                  a statement, release or trust file that is not well formed
├── MachineError                   the virtual machine did not do what was asked
├── ChannelError                   the server could not be reached or broke the protocol
└── VerificationError              exit 3: evidence or measurements do not match
"""

from __future__ import annotations


class BlindbuildError(Exception):
    """Base of all errors; the message says what and where, the hint what helps.

    Args:
        message: lower case, expected before got, no full stop.
        hint: the command or edit that helps, or None.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(BlindbuildError):
    """The command was called in a way that cannot work."""

    exit_code = 2


class RecipeError(UsageError):
    """A mistake in a recipe; `where` is `file:line:column` as far as it is known."""

    def __init__(self, message: str, *, where: str, hint: str | None = None) -> None:
        super().__init__(f"{where}: {message}", hint=hint)
        self.where = where


class FormatError(BlindbuildError):
    """Bytes that are not what they claim to be."""


class ArchiveError(FormatError):
    """A malformed ar, tar, cpio or FAT image."""


class PeError(FormatError):
    """A malformed PE image, or one that cannot take more sections."""


class CanonicalError(FormatError):
    """JSON that is not strict, or not in its RFC 8785 form."""


class EnvelopeError(FormatError):
    """A malformed DSSE envelope."""


class EifError(FormatError):
    """A malformed Enclave Image Format file, or parts that do not make one."""


class EventLogError(FormatError):
    """A malformed TCG event log."""


class TlogError(FormatError):
    """A malformed note, checkpoint, tile, proof or policy of a transparency log, or a proof that fails."""


class TpmStructureError(FormatError):
    """A malformed TPM 2.0 structure."""


class LockError(BlindbuildError):
    """The lock is missing, stale, or names something that is no longer there."""


class FetchError(BlindbuildError):
    """An input cannot be had, or is not the one that was locked."""


class StoreError(BlindbuildError):
    """The local store is damaged."""


class ToolError(BlindbuildError):
    """A program is missing, or it failed."""


class BuildError(BlindbuildError):
    """A build stage could not do its work."""


class PolicyError(BuildError):
    """A result breaks a rule that the image promises to keep."""


class MeasureError(BlindbuildError):
    """A value cannot be predicted from the inputs given."""


class ManifestError(BlindbuildError):
    """A statement, release or trust file that is not well formed."""


class MachineError(BlindbuildError):
    """The virtual machine did not do what was asked of it."""


class ChannelError(BlindbuildError):
    """The server could not be reached, or broke the protocol."""


class VerificationError(BlindbuildError):
    """Evidence, or what it is judged by, does not match.

    Args:
        step: the checklist step, such as `Q7`.
        reason: a stable machine-readable word, such as `nonce-mismatch`.
    """

    exit_code = 3

    def __init__(self, message: str, *, step: str, reason: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.step = step
        self.reason = reason
