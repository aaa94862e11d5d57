"""Commands of augmentation: a contact sheet of all operations, and the search for a policy.

`python -m vaetrain.augment --help`, `python -m vaetrain.augment.search --help`. The library is
`vaetrain.augmentation`.
"""
