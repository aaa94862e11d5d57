"""Augmentation of whole batches on the device: edits of boxes, one resampling, pixel values.

- `operations`: the table of operations; a new one is one row there and the function it names.
- `policy`: which operations are applied, how often and how strongly: by name or from a file.
- `parameters`: the random parameters of every operation for a batch.
- `pipeline.Augment`: applies a policy to a batch.

`operations`, `policy` and `config` import no torch: settings are checked before it is loaded.
"""
