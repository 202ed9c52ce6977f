"""Pages of edge parameters between store, spill file, memory and device, within a budget."""
