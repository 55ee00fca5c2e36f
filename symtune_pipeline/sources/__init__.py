"""Raw examples from the hub, a mirror, files of the user's own or grammars, in one normal form."""
