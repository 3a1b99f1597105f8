"""Terms that several methods log, in the same words."""

from __future__ import annotations

from vicreg.method_file import Term

SPREAD = {
    "embedding_std": Term(
        "Spread of the embeddings",
        "Standard deviation of embeddings of length 1, times the root of their width; 1 is even, near 0 is collapse.",
        "std",
        3,
        collapsed_below=0.05,
    )
}
"""Of `losses.directions.spread_of_directions`."""
REGULARISED = {
    "variance": Term("Variance", "How far standard deviations fall short of the hinge's; 0 is the aim.", "var"),
    "covariance": Term(
        "Covariance",
        "Squared covariances between dimensions; 0 when none repeats another.",
        "cov",
        3,
        spans_decades=True,
    ),
    "effective_rank": Term("Effective rank", "Directions in use, (tr C)² / ‖C‖²; near 1 is collapse to a line."),
}
"""Of `losses.variance_covariance.add_spread`, where they have a weight."""
