"""What all pictures share: colours, grids, and how they are saved."""

# Okabe and Ito's, which the colour-blind can tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def save(figure, path):
    """Writes a picture, at 110 points an inch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    said(path)


def said(path):
    """Prints that a picture was written."""
    print(f"Wrote {path.name}.", flush=True)
