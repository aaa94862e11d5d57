"""Start of this process: the launcher's command, variables and engine file."""
