"""One module a command, each with an object `command`. They are imported only when their command is asked for."""
