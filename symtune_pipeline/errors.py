"""The one kind of error that a user is meant to read."""


class UserError(Exception):
    """One sentence that names the file, the row or the setting, and the way out."""
