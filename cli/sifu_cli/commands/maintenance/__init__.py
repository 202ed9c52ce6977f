"""Commands that check and clean up a store, and report about the machine."""
