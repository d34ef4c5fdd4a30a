"""The README says what is so: its example runs as it stands, and its words are kept."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from cartstore.settings import settings_page

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_readme_example_prints_what_it_says_when_it_is_run(tmp_path: Path) -> None:
    found = re.search(r"```python\n(.*?)```\n\nprints `(.*?)`", README, re.DOTALL)
    assert found is not None
    assert len(found[1].splitlines()) <= 15

    done = subprocess.run(
        [sys.executable, "-c", found[1]], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )

    assert (done.stdout.strip(), done.returncode) == (found[2], 0), done.stderr


def test_readme_links_lead_somewhere_when_they_are_followed() -> None:
    for page in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} points to {target}"


def test_settings_page_is_that_of_the_code_when_it_is_read() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == settings_page(), "run `make docs`"
