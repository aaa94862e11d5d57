"""How this process was started: the launcher's command, variables and engine file."""
