"""Making records smaller: pooling, projections, int8; and the frozen blocks kept beside them."""
