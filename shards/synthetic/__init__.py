"""Generated pages: labelled archetypes in the styles of endless design families.

`archetypes` makes whole pages of `sections`, these of `components`, and these of `blocks`, a small
layout algebra.
"""
