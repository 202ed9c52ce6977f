"""The command line of sifu: each command parses, calls the library, renders. Nothing else lives here."""
