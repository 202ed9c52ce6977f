"""Pictures and pages: figures of training and graphs, the map, the trace."""
