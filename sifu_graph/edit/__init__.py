"""Editing a graph: nodes, edges, pruning and growing, as one commit or none."""
