"""A graph over HTTP: the completions API that clients of language models speak (extra `serve`)."""
