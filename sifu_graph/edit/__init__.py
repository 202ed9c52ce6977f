"""Edits of a graph: nodes, edges, pruning and growing. An edit is one commit."""
