"""Checks a built wheel: every source file once, inside `fxscale`, and nothing beside it.

Usage: python .ci/check_wheel.py dist/fxscale-*.whl
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"fxscale": "fxscale", "models": "fxscale/models", "passes": "fxscale/passes"}
"""Folder of the checkout -> folder inside the wheel."""


def expected_files() -> set[str]:
    files = {"fxscale/py.typed"}
    for folder, installed in FOLDERS.items():
        # `rglob` leaves the links fxscale/models and fxscale/passes alone.
        for path in (ROOT / folder).rglob("*.py"):
            files.add(f"{installed}/{path.relative_to(ROOT / folder).as_posix()}")
    return files


def problems(names: list[str]) -> list[str]:
    """What is wrong with a wheel of these files, one sentence each."""
    files = [name for name in names if ".dist-info/" not in name]
    found, expected = set(files), expected_files()
    twice = [name for name, count in Counter(names).items() if count > 1]
    top = sorted({name.partition("/")[0] for name in files} - {"fxscale"})
    complaints = {
        "is in the wheel twice": twice,
        "stands at the top level of the wheel": top,
        "is missing from the wheel": sorted(expected - found),
        "does not belong into the wheel": sorted(found - expected),
    }
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in names):
        complaints["is missing from the wheel's metadata"] = ["LICENSE"]
    return [f"{name} {complaint}" for complaint, names in complaints.items() for name in names]


def main(wheel: str) -> int:
    with ZipFile(wheel) as archive:
        names = archive.namelist()
    found = problems(names)
    for problem in found:
        print(problem, file=sys.stderr)
    if not found:
        print(f"{Path(wheel).name}: {len(names)} files, all in place")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
