"""Commands that show what a graph is and why it predicts what it predicts."""
