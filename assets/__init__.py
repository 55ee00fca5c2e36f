"""The graph: one module an asset, and the code location that puts them together."""
