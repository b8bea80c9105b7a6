"""Tiny wheels made on the spot, so that a real pip can be watched without a network.

In: names, versions, module texts. Out: installable .whl files and, for reuse, packages laid
straight into a folder.
"""

import zipfile
from importlib.metadata import distribution
from pathlib import Path

WHEEL = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def make_wheel(folder: Path, name: str, version: str, modules: dict[str, str]) -> None:
    """Write folder/name-version-py3-none-any.whl.

    files: path inside the wheel -> text.
    """
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = {**modules, f"{info}/METADATA": metadata, f"{info}/WHEEL": WHEEL}
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in {**files, f"{info}/RECORD": record}.items():
            wheel.writestr(path, text)


def make_wheel_of_installed(folder: Path, name: str) -> str:
    """Pack an installed pure-Python package as a wheel again; return its version."""
    installed = distribution(name)
    sources = [path for path in installed.files or [] if path.suffix == ".py"]
    modules = {path.as_posix(): path.locate().read_text(encoding="utf-8") for path in sources}
    make_wheel(folder, name, installed.version, modules)
    return installed.version


def lay_package(site_packages: Path, name: str, version: str, text: str) -> None:
    """Put a package and its metadata into a site-packages folder, as an installer would."""
    info = site_packages / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8"
    )
    (info / "RECORD").write_text("", encoding="utf-8")
    (site_packages / name).mkdir()
    (site_packages / name / "__init__.py").write_text(text, encoding="utf-8")
