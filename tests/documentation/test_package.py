"""What is published: the same bytes from the same files, with types and licence."""

import subprocess
import sys
import tarfile
import zipfile
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).parents[2]


def built(folder: Path) -> dict[str, str]:
    """The files that a build makes, and their hashes."""
    subprocess.run(  # noqa: S603 - ours
        [sys.executable, "-m", "hatchling", "build", "-d", str(folder)],
        cwd=ROOT,
        env={"SOURCE_DATE_EPOCH": "1767225600", "PATH": ""},
        capture_output=True,
        check=True,
    )
    return {
        file.name: sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()
    }


def test_a_build_is_reproducible_and_whole(tmp_path: Path) -> None:
    first = built(tmp_path / "one")
    assert built(tmp_path / "other") == first
    wheel, source = sorted(
        (tmp_path / "one").iterdir(), key=lambda f: f.suffix == ".gz"
    )
    # Needs no compiler anywhere.
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top.split("-")[0] for top in tops} == {"aioupsert"}
    assert "aioupsert/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    with tarfile.open(source) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "aioupsert/py.typed"} <= inside
