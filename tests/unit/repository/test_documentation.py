"""The documentation names files, links, targets and commands that there are, and its front page stays short."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from cluster.cli.main import parser
from cluster.config import ClusterConfig

REPOSITORY = Path(__file__).parents[3]
TOPS = ("cluster", "deploy", "experts", "helm", "kernels", "router_service", "tests")
# The changelog may speak of what is no more.
PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted(page for top in TOPS for page in (REPOSITORY / top).rglob("README.md")),
]
PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
MOST_LINES = 150

FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
ROOM_PATH = re.compile(rf"(?:{'|'.join(TOPS)})/[\w./-]*")
ROOM = re.compile(r"^\| `([\w/]+/)` (\|.*)$", re.MULTILINE)
FILE = re.compile(r"[\w-]+(?:\.(?:py|proto|ya?ml|json|safetensors)|/)|Dockerfile")
TARGET = re.compile(r"^([a-z][\w-]*):", re.MULTILINE)
MAKE = re.compile(r"\bmake ([a-z][\w-]*)")
COMMAND = re.compile(r"(?:^|/)expertmesh ([a-z]+)(?: ([a-z]+))?", re.MULTILINE)
SUFFIXES = ("json", "proto", "py", "safetensors")
SETTING = re.compile(rf"`({'|'.join(ClusterConfig().to_dict())})\.(?!(?:{'|'.join(SUFFIXES)})\b)([a-z_]+)(?=[`:])")
# A program and the rest of its line, up to a comment, a pipe or a redirection.
RUN = re.compile(
    r"(?:^|/)(expertmesh(?: [a-z]+)+|python (?:-m )?(?:tests|deploy|cluster)[\w./]+)([^\n#|>]*)", re.MULTILINE
)
QUOTED = re.compile(r'"(--[a-z][\w-]*)"')
FLAG = re.compile(r"(?<!\S)--[a-z][\w-]*")
MODULE = re.compile(rf"\bpython -m ((?:{'|'.join(TOPS)})[\w.]*)")


def test_the_front_page_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= MOST_LINES


def test_every_package_has_its_page() -> None:
    assert [top for top in TOPS if top != "helm" and not (REPOSITORY / top / "README.md").is_file()] == []


@PAGE
def test_links_and_images_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if "://" in link:
            continue
        path, _, section = unquote(link).partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), link
        assert not section or section in anchors(file), f"{link}: its sections are {sorted(anchors(file))}"


@PAGE
def test_paths_exist(page: Path) -> None:
    """A path of the repository, from its root; a pattern or a placeholder is none."""
    for span in SPAN.findall(FENCE.sub("", page.read_text())):
        for word in span.split():
            if ROOM_PATH.fullmatch(word):
                assert (REPOSITORY / word).exists(), word


@PAGE
def test_files_of_a_room_exist(page: Path) -> None:
    """In a table whose rows begin with a folder the other cells name files in it."""
    for room, cells in ROOM.findall(page.read_text()):
        names = [name for name in SPAN.findall(cells) if FILE.fullmatch(name)]
        assert [name for name in names if not (REPOSITORY / room / name).exists()] == [], room


@PAGE
def test_modules_that_are_run_exist(page: Path) -> None:
    for module in MODULE.findall(page.read_text()):
        place = REPOSITORY / module.replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), module


@PAGE
def test_make_targets_exist(page: Path) -> None:
    targets = set(TARGET.findall((REPOSITORY / "Makefile").read_text()))
    assert {name for text in code(page) for name in MAKE.findall(text)} <= targets


@PAGE
def test_commands_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in {match for text in code(page) for match in COMMAND.findall(text)}:
        with pytest.raises(SystemExit) as stopped:
            parser().parse_args([*filter(None, command), "--help"])
        assert stopped.value.code == 0, capsys.readouterr().err


@PAGE
def test_flags_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for program, rest in {match for text in code(page) for match in RUN.findall(text)}:
        if flags := set(FLAG.findall(rest)):
            assert flags <= known_flags(program, capsys), f"{program} {rest}"


@PAGE
def test_settings_exist(page: Path) -> None:
    config = ClusterConfig().to_dict()
    found = SETTING.findall(FENCE.sub("", page.read_text()))
    assert [f"{section}.{key}" for section, key in found if key not in config[section]] == []


def test_the_command_line_is_known_without_torch() -> None:
    """Where this file asks it, and for whoever types `expertmesh --help`."""
    program = "import sys; from cluster.cli.main import parser; parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, timeout=120).returncode == 0


def known_flags(program: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    """The flags of a command of ours, or those that a script and the modules beside it name."""
    name, *words = program.split()
    if name == "python":
        path = words[-1].removesuffix(".py").replace(".", "/")
        return {flag for file in (REPOSITORY / path).parent.rglob("*.py") for flag in QUOTED.findall(file.read_text())}
    with pytest.raises(SystemExit):
        parser().parse_args([*words, "--help"])
    return set(re.findall(r"--[a-z][\w-]*", capsys.readouterr().out))


def code(page: Path) -> Iterator[str]:
    """What stands in fences and between back-ticks."""
    text = page.read_text()
    yield from FENCE.findall(text)
    yield from SPAN.findall(FENCE.sub("", text))


def anchors(page: Path) -> set[str]:
    """The names of a page's sections, as GitHub makes them of headings."""
    headings = HEADING.findall(FENCE.sub("", page.read_text()))
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
