"""SQL models in a folder: what schema.yml says of them, what they read, and running them in DuckDB."""
