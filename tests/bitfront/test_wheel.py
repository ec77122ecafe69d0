"""A wheel that is built from the checkout works in an environment that holds nothing else of it."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("bitfront", "quant_core", "spaces", "hw_models", "search")


def run(command: list[str], folder: Path, **variables: str) -> str:
    """Run a command in a folder with few variables of the environment and return its standard output."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "BITFRONT_CACHE": str(folder / "cache"), **variables}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the `bin` folder of a fresh environment with the wheel in it; its dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run([*pip, "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)], folder)
    (wheel,) = folder.glob("bitfront-*.whl")
    run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], folder)
    python = folder / "venv/bin/python"
    run([*pip, "--python", str(python), "install", "--quiet", "--no-index", "--no-deps", str(wheel)], folder)
    (site,) = (folder / "venv/lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")  # a line adds a folder, whose own .pth files are not read
    return python.parent


@pytest.mark.slow
def test_the_default_experiment_sweeps_by_name_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    printed = run([str(installed / "bitfront"), "sweep", "digits", "search.trials=8", "name=wheel", "--log", "plain"], tmp_path)
    assert printed.split()[0] == "wheel"
    assert "accuracy" in run([str(installed / "bitfront"), "front", "wheel", "--json"], tmp_path)
    code = "import bitfront; print(bitfront.__file__); sweep = bitfront.load('wheel'); print(sweep); sweep.model('knee')"
    where, shown = run([str(installed / "python"), "-c", code], tmp_path).splitlines()
    assert where.startswith(str(installed.parent))
    assert shown.startswith("Sweep(wheel: finished, 8 trials, 0 failed")


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_the_wheel_holds_the_files_of_the_checkout(installed: Path, package: str) -> None:
    (site,) = (installed.parent / "lib").glob("python*/site-packages")
    ours = subprocess.run(["git", "ls-files", package], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert [name for name in ours if not (site / name).is_file() and (ROOT / name).exists()] == []
