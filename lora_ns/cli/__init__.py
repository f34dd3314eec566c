"""The command line: parse, call a service, show its result. The only code that writes to the terminal."""
