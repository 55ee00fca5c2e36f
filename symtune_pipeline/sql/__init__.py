"""SQL models in a folder: what schema.yml says of them, what they read, and how they run in DuckDB."""
