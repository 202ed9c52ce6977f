"""Decoding: a signal that chooses its path through the graph, and the text of that path."""
