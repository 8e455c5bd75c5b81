"""The pages say what the code says, and point only to what exists."""

import inspect
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from docs import generate
from prometheus_client import REGISTRY

from reckeeper import errors
from reckeeper.config import Settings

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "benchmarks" / "RESULTS.md"]
)
README = (ROOT / "README.md").read_text(encoding="utf-8")


def name_of(page):
    return str(page.relative_to(ROOT))


def text_of(name):
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def anchors(page):
    """Return the anchors that a forge, and MyST, give to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


@pytest.fixture(scope="module")
def generated():
    return {page: (text, wanted) for page, text, wanted in generate.pages()}


def test_generated_parts_are_up_to_date(generated):
    stale = [name_of(page) for page, (text, wanted) in generated.items() if text != wanted]
    assert not stale, "`make docs` writes them"


def test_every_generated_part_has_its_page(generated):
    names = [name for text, _ in generated.values() for _, name, _ in generate.PART.findall(text)]
    assert sorted(names) == sorted(generate.PARTS)


def declared(program):
    """Return the routes of a program as its source declares them."""
    pattern = r"@\w+\.(get|post|put|patch|delete)\(\s*\"([^\"]+)\""
    return {
        method.upper() + " " + re.sub(r"<(?:\w+:)?(\w+)>|{(\w+):\w+}", r"{\1\2}", path)
        for file in (ROOT / "src" / "reckeeper" / program).glob("*.py")
        for method, path in re.findall(pattern, file.read_text(encoding="utf-8"))
    }


def test_every_route_of_the_server_is_documented():
    documented = set(re.findall(r"^### `([A-Z]+ /\S*)`$", text_of("reference/http.md"), re.M))
    assert len(documented) > 30
    assert documented == declared("api")


def test_every_route_of_the_worker_is_documented():
    section = text_of("reference/http.md").partition("## The worker")[2]
    assert set(re.findall(r"`([A-Z]+ /\S*)`", section)) == declared("worker")


def test_every_command_is_documented():
    sources = [path.read_text("utf-8") for path in (ROOT / "src/reckeeper/cli").glob("*.py")]
    declared = {name for text in sources for name in re.findall(r'\.command\("([a-z]+)"', text)}
    page = text_of("reference/cli.md")
    assert len(declared) > 25
    assert declared == {line.split()[-1] for line in re.findall(r"^## `(.+)`$", page, re.M)}


def test_every_metric_is_documented():
    page = text_of("operate/metrics.md")
    ours = [family for family in REGISTRY.collect() if family.name.startswith("reckeeper_")]
    assert len(ours) > 5
    assert [family.name for family in ours if f"`{family.name}" not in page] == []


def test_every_error_code_is_documented():
    page = text_of("reference/errors.md")
    classes = [
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, errors.ReckeeperError)
    ]
    missing = [error.code for error in classes if f"| `{error.code}` | " not in page]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def test_every_page_is_in_the_index():
    listed = set(re.findall(r"^(?:[a-z]+/)?[a-z]+$", text_of("index.md"), re.MULTILINE))
    pages = {
        str(page.relative_to(ROOT / "docs").with_suffix(""))
        for page in (ROOT / "docs").rglob("*.md")
    }
    assert listed == pages - {"index"}


def test_every_dependency_has_its_reason():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(line for extra in extras for line in extra)]
    listed = re.findall(r"^\| ([a-z][^|]*) \|", text_of("understand/dependencies.md"), re.MULTILINE)
    named = {name for cell in listed for name in cell.split(", ")} - {"dependency"}
    assert named == {re.match(r"[\w-]+", line)[0] for line in wanted}


def test_readme_is_short_and_shows_how_to_start():
    assert len(README.splitlines()) <= 130
    assert "\nmake run " in README
    assert "\nmake test " in README
    # The contract's own words.
    assert "avigate to <http://localhost:8501>" in README
    assert 'lick "Model Management"' in README


def test_a_block_that_does_not_run_says_why():
    for page in PAGES:
        for reason in re.findall(r"<!-- not run(.*?)-->", page.read_text(encoding="utf-8")):
            assert re.fullmatch(r": .{5,} ", reason), f"{name_of(page)}: {reason}"


def test_pre_commit_runs_the_tools_of_ci():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = {hook["entry"] for repo in config["repos"] for hook in repo["hooks"]}
    makefile = (ROOT / "Makefile").read_text()
    lint = re.search(r"^lint:.*\n((?:\t.+\n)+)", makefile, re.MULTILINE)[1]
    for command in re.findall(r"\$\(BIN\)/(.+)", lint):
        assert f".venv/bin/{command}" in hooks


def test_what_the_quick_check_leaves_out_exists():
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", "")
    slow = re.search(r"^SLOW := (.+)$", makefile, re.MULTILINE)[1].split()
    assert slow
    assert all((ROOT / "tests" / "unit" / f"test_{name}.py").exists() for name in slow)


def test_a_setting_without_a_table_is_named_in_a_page():
    text = text_of("operate/settings.md")
    assert all(f"`{name}`" in text for name in Settings.from_env({}).to_env() if name)
