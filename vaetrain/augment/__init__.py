"""Augmentation of whole batches on the device: edits of boxes, one resampling, pixels.

`policy` says what is done how often and how strongly, and imports no torch; `pipeline.Augment`
does it. `python -m vaetrain.augment --help` makes a contact sheet.
"""
