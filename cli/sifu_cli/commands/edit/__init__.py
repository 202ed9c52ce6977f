"""Commands that change nodes and edges."""
