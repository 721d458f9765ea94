# Copyright 2026 The sanet-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""What the pictures that matplotlib draws have in common."""

from pathlib import Path


PICTURES = (".png", ".jpg", ".svg", ".pdf")
# Of Okabe and Ito, which those who do not see all colours can tell apart; then grey.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
OTHER_COLOR = "#999999"


def check_picture(path: str | Path) -> None:
    """Raise a ValueError for a file whose suffix is not that of a picture."""
    if Path(path).suffix.lower() not in PICTURES:
        raise ValueError(f"{path}: a picture must end in {', '.join(PICTURES[:-1])} or {PICTURES[-1]}.")
