"""Generator of synthetic pages: labelled archetypes in the styles of many design families.

`archetypes` makes pages of `sections`, `sections` are made of `widgets`, and `widgets` of `blocks`,
a small layout algebra.
"""
