"""What wandb-workspaces makes, a workspace or a report: as plain data, and saved on W&B."""

from __future__ import annotations

import json
from typing import Any

from detector.errors import UserError


def specification(made: Any) -> dict[str, Any]:
    """What would be sent of a workspace or a report, as plain data."""
    # The library has no public way to ask for it; its own tests look here.
    text: str = made._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)
    return dict(json.loads(text))


def save(made: Any, what: str, hint: str) -> None:
    """Send it, and print where it is.

    Args:
        made: a workspace or a report.
        what: to call it in the error.
        hint: what brings its project there, in the error.

    Raises:
        UserError: W&B did not take it.
    """
    try:
        made.save()
    except Exception as error:  # the client raises what its transport does: many kinds, no common base
        words = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"W&B did not take the {what}: {words}\n"
            f"is {made.entity}/{made.project} a project of yours (`wandb login`, then {hint})?"
        ) from error
    print(f"Saved: {made.url}")
