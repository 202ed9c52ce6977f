"""Commands that show the content of a graph and the reasons of its predictions."""
