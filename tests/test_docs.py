"""What the README and the examples show is run, on a smaller graph than they show it with."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import needs
import pytest
import warm
from serving import serving
from sifu_cli.commands.inspection.plot import KINDS as KINDS_OF_PLOTS
from small import write_poems

from sifu_graph import build_graph

ROOT = Path(__file__).parents[1]


def run(code: str, folder: Path) -> str:
    """Runs Python code as a user does, imports and their warnings included. Returns what it printed."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def on_few_poems(code: str, folder: Path) -> str:
    """Python code that builds from a small file in place of the shipped poems."""
    write_poems(folder / "few.txt", poems=1000)
    assert '"tang"' in code
    return code.replace('"tang"', '"few.txt"')


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", ["README.md", "docs/guide.md"])
def test_python_blocks_run(page: str, tmp_path: Path) -> None:
    found = blocks(ROOT / page, "python")
    assert found
    for block in found:
        small = on_few_poems(block.replace("vocab=4000", "vocab=150"), tmp_path)
        assert small != block
        assert run(small, tmp_path)


def test_the_example_runs(tmp_path: Path) -> None:
    code = (ROOT / "examples" / "first_graph.py").read_text(encoding="utf-8")
    code = on_few_poems(code.replace("VOCAB = 4000", "VOCAB = 150").replace("STEPS = 4", "STEPS = 1"), tmp_path)
    printed = warm.run(code, cwd=tmp_path)
    assert len(printed.splitlines()) == 6


def commands_on(page: Path) -> list[list[str]]:
    """The words of every `sifu ...` on a page: in its console blocks and between backticks in its text."""
    text = page.read_text(encoding="utf-8")
    lines = re.findall(r"^(?:\$ |    )(sifu .*?)(?:  +#.*)?$", text, re.MULTILINE)
    found = [part for line in (*lines, *re.findall(r"`(sifu [^`\n]*)`", text)) for part in re.split(r"[;|&]+ ", line)]
    return [shlex.split(command) for command in found if command.startswith("sifu ")]


def test_every_command_and_option_on_a_page_exists() -> None:
    import click
    from sifu_cli.main import COMMANDS, cli

    context, seen = click.Context(cli), 0
    common = {option for parameter in cli.params for option in parameter.opts}
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for _, *words in commands_on(page):
            name = next((word for word in words if not word.startswith("-")), None)
            if name is None or name.isupper():  # `sifu --help`, `sifu COMMAND`
                continue
            assert name in COMMANDS, (page.name, words)
            command = cli.get_command(context, name)
            assert command is not None
            known = {"--help", *common, *(o for p in command.params for o in (*p.opts, *p.secondary_opts))}
            options = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
            assert options <= known, (page.name, words)
            seen += len(options)
    assert seen > 80


VARIES = re.compile(r"\b[0-9A-HJKMNP-TV-Z]{8}\b|[\d:.,]+ (?:bytes|[KMG]iB|s|min)|[\d:.,]*\d[\d:.,]*(?: %)?")


def remarks(printed: str) -> list[str]:
    """The lines of a table without the numbers, sizes, times and snapshots in them."""
    return [" ".join(VARIES.sub("*", line).split()) for line in printed.splitlines() if line.strip()]


def test_the_guide_shows_what_build_and_train_print(tmp_path: Path) -> None:
    """The words, on a smaller graph than the page has: the figures were measured once."""
    write_poems(tmp_path / "few.txt", poems=1000)
    first, *_ = blocks(ROOT / "docs" / "guide.md", "console")
    session = dict(part.partition("\n")[::2] for part in first.split("$ ")[1:])
    for command, small in (
        (
            "sifu build-graph --vocab 4000 --sparsify 0.1",
            ["build-graph", "few.txt", "--vocab", "4000", "--sparsify", "0.1"],
        ),
        ("sifu train --minutes 1", ["train", "--steps", "1", "--batch", "16"]),
    ):
        printed = warm.run(f"from sifu_cli.main import run; assert run({small!r}) == 0", cwd=tmp_path)
        shown = [line for line in remarks(printed) if not line.startswith(("without unknown", "unknown *"))]
        assert shown == remarks(session[command])  # few poems have many unknown tokens, and the page has few


def test_the_page_of_evaluation_shows_what_eval_prints(tmp_path: Path) -> None:
    """The words, on a smaller graph than the page has."""
    write_poems(tmp_path / "few.txt", poems=300)
    [block] = blocks(ROOT / "docs" / "evaluation.md", "console")
    command, _, shown = block.removeprefix("$ ").partition("\n")
    words = shlex.split(command)[1:]
    build = ["build-graph", "few.txt", "--vocab", "200", "--holdout", "0.1", "--quiet"]
    code = f"from sifu_cli.main import run; assert run({build!r}) == 0; print('$'); assert run({words!r}) == 0"
    printed = warm.run(code, cwd=tmp_path).partition("$\n")[2]
    assert remarks(printed) == remarks(shown)


def test_the_walk_through_seeing_runs(tmp_path: Path) -> None:
    """Every command and the Python of the page, one after another, on a graph that takes less time."""
    page = ROOT / "docs" / "seeing.md"
    lines = [line[2:] for block in blocks(page, "console") for line in block.splitlines() if line.startswith("$ ")]
    assert len(lines) == 8
    write_poems(tmp_path / "few.txt", poems=1000)
    small = [
        line.replace("--vocab 1000", "few.txt --vocab 200").replace("--minutes 4", "--steps 1 --batch 64")
        for line in lines
    ]
    words = [shlex.split(line) for line in small]
    assert {first for first, *_ in words} == {"sifu"}
    code = f"""
import torch
from sifu_cli.main import run
torch.set_num_threads(1)
for words in {[rest for _, *rest in words]!r}:
    print("$", *words)
    assert run(words) == 0, words
"""
    printed = re.split(r"^\$ .*\n", warm.run(code, cwd=tmp_path), flags=re.MULTILINE)[1:]
    assert len(printed) == 8
    assert all(printed)
    assert (tmp_path / "spring.html").exists()
    [code] = blocks(page, "python")
    assert "風" in warm.run(code, cwd=tmp_path)


def shape(value: object) -> object:
    """What a JSON value consists of: the names of its fields, and types in place of values."""
    if isinstance(value, dict):
        named = all(re.fullmatch(r"[a-z_]+", name) for name in value)  # tokens are names, too, and vary
        return (
            {name: shape(each) for name, each in value.items()} if named else [shape(each) for each in value.values()]
        )
    if isinstance(value, list):
        return [shape(each) for each in value]
    return "number" if isinstance(value, int | float) else type(value).__name__


def test_the_page_of_serving_shows_what_a_server_answers(tmp_path: Path) -> None:
    """Every line with curl, on a smaller graph than the page has: the fields of the answers, and whole messages."""
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip(needs.CURL)
    write_poems(tmp_path / "few.txt", poems=300)
    build_graph(tmp_path / "few.txt", tmp_path / "graph.sifu", vocab=200, width=16)
    first, *others = blocks(ROOT / "docs" / "serving.md", "console")
    assert first.startswith("$ sifu serve\nserving graph (")
    asked = 0
    with serving(tmp_path / "graph.sifu") as server:
        for part in "".join(others).removeprefix("$ ").split("\n$ "):
            command, _, shown = part.partition("\n")
            name, *words = shlex.split(command.replace("localhost:8000", f"127.0.0.1:{server.port}"))
            assert name == "curl"
            found = subprocess.run([curl, *words], capture_output=True, text=True, timeout=60).stdout
            for text in (found, shown):
                assert text.strip(), command
            events = [
                [line.removeprefix("data: ") for line in text.splitlines() if line.strip()] for text in (found, shown)
            ]
            answers = [[json.loads(line) for line in lines if line != "[DONE]"] for lines in events]
            # How many events of a stream are before the last one depends on the time between its tokens.
            kinds = [{str(shape(each)).replace("NoneType", "str") for each in part} for part in answers]
            assert kinds[0] == kinds[1], command
            assert (events[0][-1] == "[DONE]") == (events[1][-1] == "[DONE]")
            for one, other in zip(*answers, strict=False):
                assert one.get("error") == other.get("error")
            asked += 1
    assert asked == 6


def test_every_picture_of_the_gallery_has_its_command() -> None:
    """Each picture is below a command that draws one, or names it; plots of every kind are there."""
    page = ROOT / "docs" / "gallery.md"
    text = page.read_text(encoding="utf-8")
    command, kinds = "", set()
    for line in text.splitlines():
        if found := re.match(r"\$ sifu (map|plot|trace|serve)\b ?(\w*)|`python (benchmarks/\w+\.py)", line):
            command = found[3] or found[1]
            if command == "plot":
                kinds.add(found[2])
        elif line.startswith("## "):
            command = ""
        elif line.startswith("!["):
            assert command, line
    assert kinds == set(KINDS_OF_PLOTS)
    shown = {path.name for path in (ROOT / "docs" / "gallery").iterdir()}
    assert shown == set(re.findall(r"\(gallery/(.+?\.png)\)", text))
    of_pages = {path.name for path in (ROOT / "docs").glob("*.png")} - {"loss.png"}
    assert of_pages == set(re.findall(r"\(([\w-]+\.png)\)", text))


PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
LINK = re.compile(r"\]\(([^)#:\s]*)(?:#([^)\s]+))?\)")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub names them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


PATH = r"[\w.\-]+(?:/[\w.\-]+)*"
KINDS = (".py", ".cpp", ".md", ".toml", ".txt", ".json", ".js", ".css", ".html", ".yml", ".cff")
FOLDERS = (".", "sifu_graph", "tests")
"""Where the paths on a page begin."""
OF_A_STORE = {"repository/", "collecting/", "cache/", "index/", "scratch/", "writer.json", "meta.json"}
OF_A_READER = {"FILE.toml"}


def prose(page: Path) -> str:
    """A page without its code blocks; of the changes, those that were not released yet."""
    text = page.read_text(encoding="utf-8")
    if page.name == "CHANGELOG.md":
        text = text.split("\n## ")[1]
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def found_path(name: str) -> Path | None:
    return next((path for folder in FOLDERS if (path := ROOT / folder / name).exists()), None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_on_a_page_exists(page: Path) -> None:
    named = re.findall(rf"`({PATH}/?)`", prose(page))
    paths = {name for name in named if name.endswith(("/", *KINDS)) and name not in KINDS} - OF_A_STORE - OF_A_READER
    assert [name for name in sorted(paths) if found_path(name) is None and not (page.parent / name).exists()] == []


def test_what_a_page_names_in_a_file_is_there() -> None:
    """Of `file.py`, `name` and `file.py` (`name`, `name`): every name is in the file."""
    pairs = 0
    for page in PAGES:
        for name, first, more in re.findall(
            rf"`({PATH}\.(?:py|cpp))`(?:, `(\w[\w.]*)`| \((`[\w.`, ]+`)\))", prose(page)
        ):
            path = found_path(name)
            assert path is not None, name
            text = path.read_text(encoding="utf-8")
            for names in filter(None, (first, more)):
                if first and first.endswith(tuple(kind[1:] for kind in KINDS)):
                    continue  # a second file
                for each in re.findall(r"[\w.]+", names):
                    assert re.search(rf"\b{each.split('.')[-1]}\b", text), f"{page.name}: {name} has no {each}"
                    pairs += 1
    assert pairs > 10


def test_every_module_and_target_that_is_run_exists() -> None:
    """`python -m module`, `python path` and `make target`, in code blocks and in the text."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        code = re.findall(r"`([^`\n]+)`|^ {4}(\S[^\n]*)", prose(page), re.MULTILINE)
        for line in map("".join, code):
            if match := re.match(r"make ([a-z-]+)", line):
                assert match[1] in targets, f"{page.name}: {line}"
            if match := re.match(r"python -m ([\w.]+)", line):
                assert importlib.util.find_spec(match[1]), f"{page.name}: {line}"
            if match := re.match(rf"(?:python|pytest(?: -m \w+)?) ({PATH}\.py)", line):
                assert found_path(match[1]), f"{page.name}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_inside_the_project_leads_somewhere(page: Path) -> None:
    for link, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        target = page.parent / link if link else page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{link}#{anchor}"


def test_the_index_lists_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    listed = {(index.parent / link).resolve() for link, _ in LINK.findall(index.read_text(encoding="utf-8"))}
    assert listed == set((ROOT / "docs").rglob("*.md")) - {index}


def test_drawings_have_a_text_for_readers_that_show_none() -> None:
    drawings = list((ROOT / "docs").rglob("*.svg"))
    assert len(drawings) == 8
    for drawing in drawings:
        root = ElementTree.parse(drawing).getroot()
        title, description = (root.find(f"{{http://www.w3.org/2000/svg}}{tag}") for tag in ("title", "desc"))
        assert title is not None and title.text
        assert description is not None and description.text


def test_the_version_is_the_same_everywhere() -> None:
    import sifu_graph

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == sifu_graph.__version__
    assert f"\nversion: {sifu_graph.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_the_changelog_has_one_line_a_change() -> None:
    """The form of keepachangelog.com: versions, kinds of change, and one line for each change."""
    lines = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    versions = [line for line in lines if line.startswith("## ")]
    assert versions[0] == "## [Unreleased]"
    assert all(re.fullmatch(r"## \[(Unreleased|\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d)\]?", line) for line in versions)
    kinds = {line[4:] for line in lines if line.startswith("### ")}
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert not [line for line in lines if line.startswith(" ")], "a change continues on a second line"
    assert all(len(line) <= 130 for line in lines)
