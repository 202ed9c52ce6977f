"""Reading a graph: nodes and edges, traces, attributions, what-if changes, differences between snapshots."""
