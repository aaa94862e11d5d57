"""Loss functions, the table of loss terms, and the objective."""
