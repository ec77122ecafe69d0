"""The colours and symbols of sweeps and marks, alike in MLflow, on pages and in pictures.

The colours are those of Okabe and Ito (Color Universal Design, 2008), which people of every colour vision tell apart, in the order that
keeps neighbours apart in greyscale too; a symbol per sweep does not need colours at all.
"""

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#999999", "#F0E442")
SYMBOLS = ("circle", "square", "triangle-up", "cross", "triangle-down", "star-square", "hexagon", "pentagon")
FRONT, KNEE, SUGGESTED = PALETTE[0], PALETTE[4], PALETTE[1]
OTHERS, BASELINES, LIMIT, FLOAT = "#a9adb6", "#6f747e", "#8a6d00", "#009E73"


def color(position: int) -> str:
    """Return the colour of the sweep at a position, from 0."""
    return PALETTE[position % len(PALETTE)]


def symbol(position: int) -> str:
    """Return the symbol of the sweep at a position, from 0; with the ninth sweep a colour gets another symbol."""
    return SYMBOLS[(position + position // len(PALETTE)) % len(SYMBOLS)]
