"""Command that writes the files that need no model and no shards; see the package."""

import sys
from pathlib import Path

from tests.corpus import settings, write_files
from tests.corpus.pages import bad_layouts, bad_lines, bad_pictures, write_odd_files

folder = Path(sys.argv[1])
found = write_files(folder / "layouts", bad_layouts()) + write_odd_files(folder / "layouts")
found += write_files(folder / "lines", ((name, data) for name, data, _ in bad_lines()))
found += write_files(folder / "pictures", bad_pictures())
found += write_files(folder / "yaml", settings.bad_yaml(b"name: x\ndata: {width: 64}\n"))
for name in ("engines", "policies", "studies"):
    found += write_files(folder / name, settings.numbered(getattr(settings, name.upper())))
experiments = tuple(text for text, _ in settings.SETTINGS)
found += write_files(folder / "experiments", settings.numbered(experiments))
print(f"{len(found)} files in {folder}")
