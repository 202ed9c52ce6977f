"""Commands that read and write other formats."""
