"""Looking into a graph: nodes and edges, traces, attributions, what-if changes, differences of snapshots."""
