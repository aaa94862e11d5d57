"""Starting things: quickstart, tests, experiments."""
