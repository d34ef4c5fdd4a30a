"""The wheel has all that the packages need when they are not run from the checkout, and no more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parents[2]
FOLDERS = {"cartstore": "", "cartstore_api": "api", "cartstore_workers": "workers", "cartstore_lua": "lua"}


def test_wheel_has_every_file_of_the_four_packages_when_it_is_built(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}

    wanted = set()
    for package, folder in FOLDERS.items():
        for file in (ROOT / folder / package).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                wanted.add(file.relative_to(ROOT / folder).as_posix())

    assert names == wanted
    assert {Path(name).suffix for name in names} >= {".py", ".lua", ".html", ".csv", ".mako"}
