"""Commands that list, compare and move between commits."""
