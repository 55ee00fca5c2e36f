"""The method, in reading order: symbols, mixture, text, tokens, blocks."""
