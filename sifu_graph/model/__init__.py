"""A graph's parameters: their first values, their place in the store, and the forward pass of a batch."""
