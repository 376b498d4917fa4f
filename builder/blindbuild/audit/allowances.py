"""What a recipe leaves open has to be what is open: no channel less, and no channel more."""

from __future__ import annotations

from blindbuild.assemble.recipe_shape import did_you_mean
from blindbuild.audit.image import Allowance, LedgerInputs
from blindbuild.audit.ledger import Ledger
from blindbuild.errors import PolicyError, RecipeError


def check_allowances(ledger: Ledger, inputs: LedgerInputs) -> None:
    """Check that the recipe leaves open what is open, and nothing else.

    Raises:
        RecipeError: the recipe leaves a channel open that there is not, or in which nothing is open.
        PolicyError: a channel is open that should be closed, and the recipe does not leave it open (a debug
            image may); all findings are named.
    """
    rows = {row.rule.identifier: row for row in ledger.rows}
    for one in inputs.allowed:
        if one.identifier not in rows:
            hint = did_you_mean(one.identifier, rows) or "an id of channels.json, such as kernel-log"
            raise _idle(one, "the id of a channel", "", hint)
        if not rows[one.identifier].allowed:
            closable = rows[one.identifier].rule.closable
            why = ", in which nothing was found" if closable else ", which no image can close"
            raise _idle(one, "a channel that this image opens", why, "remove it: it would allow nothing")
    if ledger.undeclared and not inputs.debug:
        open_rows = [row.rule.identifier for row in ledger.rows if row.findings and not row.allowed]
        where = f"{inputs.allowed_where}: " if inputs.allowed_where else ""
        raise PolicyError(
            f"{where}expected no open channel but those that `channels.allow` names, got "
            f"{', '.join(open_rows)}: {len(ledger.undeclared)} findings against the channel ledger:\n  "
            + "\n  ".join(ledger.undeclared),
            hint="close the channel, name it in `channels.allow`, or look at it with `build --debug`",
        )


def _idle(one: Allowance, expected: str, why: str, hint: str) -> RecipeError:
    message = f"channels.allow: expected {expected}, got `{one.identifier}`{why}"
    return RecipeError(message, where=one.where or "the recipe", hint=hint)
