"""`detector theory`: what papers say of gradients at initialisation, and what is measured, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from detector.tools.theory.measure import Check


def theory(*, trunk: bool | Literal["coco8", "shapes", "random"] = False) -> list[Check]:
    """Show backward factors, and what else papers say of gradients: published, by formula and measured.

    Args:
        trunk: also measure the detector's trunk on these images; on coco8 if none are named.

    Returns:
        The rows of the tables.

    Raises:
        UserError: the images are not available.
    """
    from detector.tools.theory.tables import print_tables

    return print_tables("coco8" if trunk is True else trunk or None)
