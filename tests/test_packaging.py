"""What is in a wheel, and that the package works from one."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def unpacked_wheel(tmp_path_factory):
    """The wheel, built without a network and unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_recipes_and_kits_are_in_the_wheel(unpacked_wheel):
    shipped = unpacked_wheel / "protoseg_deploy" / "shipped"
    for name in ("recipes", "export"):
        inside = {path.relative_to(shipped / name) for path in (shipped / name).rglob("*") if path.is_file()}
        outside = {path.relative_to(ROOT / name) for path in (ROOT / name).rglob("*") if path.is_file()}
        assert inside == outside, name
        assert inside


def test_the_page_of_the_server_is_in_the_wheel(unpacked_wheel):
    page = Path("protoseg_deploy", "serving", "page")
    inside, outside = (
        {file.name for file in (root / page).iterdir() if file.is_file()} for root in (unpacked_wheel, ROOT)
    )
    assert inside == outside
    assert {"index.html", "style.css", "page.js", "icon.svg"} <= inside


def test_the_installed_package_finds_its_recipes(unpacked_wheel, tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(unpacked_wheel)!r})\n"
        "import protoseg_deploy\n"
        "from protoseg_deploy.recipe import load_recipe, shipped_folder\n"
        f"assert protoseg_deploy.__file__.startswith({str(unpacked_wheel)!r})\n"
        "assert 'shipped' in str(shipped_folder('recipes')), shipped_folder('recipes')\n"
        "print(load_recipe('demo').data.classes)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "classes.json", done.stderr


@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "arm64", "AMD64"])
def test_every_platform_gets_exactly_one_onnxruntime(system, machine):
    """Both packages install the same files: together, the one removed last breaks the other."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    platform = {"sys_platform": system, "platform_machine": machine}
    wanted = [
        requirement.name
        for requirement in map(Requirement, listed)
        if requirement.name.startswith("onnxruntime")
        and (requirement.marker is None or requirement.marker.evaluate(platform))
    ]
    assert wanted == ["onnxruntime-gpu" if (system, machine) == ("linux", "x86_64") else "onnxruntime"]
