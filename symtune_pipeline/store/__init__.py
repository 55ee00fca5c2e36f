"""Artifacts in a local folder or on s3; this room knows nothing of what they hold."""
