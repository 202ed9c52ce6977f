"""One module a command, each with an object `command`; imported only when that command is asked for."""
