"""Commands that build, train, run and evaluate a graph."""
