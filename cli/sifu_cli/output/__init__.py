"""Text output: messages on stderr, results on stdout, and how values are written."""
