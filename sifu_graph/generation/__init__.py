"""Decoding: a signal that flows and chooses its way, and the text that it leaves."""
