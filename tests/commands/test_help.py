"""--help, the READMEs, Makefile and .env.example tell of the same commands, options, variables and exit codes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from conftest import ROOT, run_script

SCRIPTS = sorted(path.name for path in (ROOT / "scripts").glob("*.py"))
PAGES = ("README.md", "db/README.md", "tests/README.md", "tests/benchmarks/README.md")
SOURCES = [*(ROOT / "scripts").rglob("*.py"), *(ROOT / "db").rglob("*.sql")]
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
VARIABLE = re.compile(r"\b(?:SUPABASE|MIGRATION)_[A-Z_]+[A-Z]\b")
EXIT_CODE = re.compile(r"^  (\d+) ", re.MULTILINE)


@pytest.fixture(scope="session")
def help_of() -> dict[str, str]:
    """What each script prints with --help."""
    texts = {}
    for script in SCRIPTS:
        done = run_script(script, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        texts[script] = done.stdout
    return texts


@pytest.fixture(scope="session")
def readme() -> str:
    """README.md, without the parts that are other programs' options."""
    path = ROOT / "README.md"
    if not path.is_file():
        pytest.skip("there is no README.md")
    return re.sub(r"`supabase [^`]*`", "", path.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def makefile() -> str:
    """The Makefile."""
    path = ROOT / "Makefile"
    if not path.is_file():
        pytest.skip("there is no Makefile")
    return path.read_text(encoding="utf-8")


def options_in(texts: Iterable[str]) -> set[str]:
    """All long options in some texts."""
    return {option for text in texts for option in OPTION.findall(text)}


def known_variables() -> set[str]:
    """The variables that the settings read."""
    return set(VARIABLE.findall((ROOT / "scripts/rpc_migrations/settings.py").read_text(encoding="utf-8")))


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_has_a_paragraph_examples_and_exit_codes(help_of: dict[str, str], script: str) -> None:
    text = help_of[script]
    usage, description, _ = text.split("\n\n", 2)
    assert usage.startswith(f"usage: {script} ")
    assert len(description.split()) >= 6
    assert description.endswith(".")
    examples = re.findall(r"^  (python scripts/\S+.*)$", text.split("\nexamples:\n")[1], re.MULTILINE)
    assert examples
    for example in examples:
        assert example.split()[1] == f"scripts/{script}"
        assert options_in([example]) <= options_in([text]), example
    assert EXIT_CODE.findall(text.split("\nexit codes:\n")[1]) == ["0", "1", "2", "130"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_whole_at_80_columns(help_of: dict[str, str], script: str) -> None:
    assert [line for line in help_of[script].splitlines() if len(line) > 80] == []


def test_what_make_lists_is_whole_at_80_columns(makefile: str) -> None:
    listed = re.findall(r"^([a-z-]+):.*## (.*)$", makefile, re.MULTILINE)
    assert listed
    assert [target for target, text in listed if len(f"  {target:18} {text}") > 80] == []


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_make_deploys_before_it_migrates(makefile: str, tmp_path: Path) -> None:
    """Also where MAKEFLAGS, in somebody's profile, has make run everything at once."""
    (tmp_path / ".venv").mkdir()
    (tmp_path / "requirements.txt").touch()
    (tmp_path / ".venv/scripts").touch()
    (tmp_path / "slow").write_text("case $1 in *deploy*) sleep 0.3 ;; esac; echo $1\n")
    (tmp_path / "Makefile").write_text(makefile)
    done = subprocess.run(
        ["make", "-s", "-j4", "RUN=sh slow", "migration-all"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["scripts/deploy_sql_function.py", "scripts/migrate_clusters.py"]


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
@pytest.mark.parametrize(
    ("file", "given"),
    [("a b'c.sql", ["a b'c.sql"]), ("1_a.sql 2_b.sql", ["1_a.sql", "2_b.sql"]), ("*_?.sql", ["1_a.sql", "2_b.sql"])],
)
def test_make_hands_a_path_on_as_it_is(makefile: str, tmp_path: Path, file: str, given: list[str]) -> None:
    (tmp_path / ".venv").mkdir()
    for name in ("requirements.txt", ".venv/scripts", "a b'c.sql", "1_a.sql", "2_b.sql"):
        (tmp_path / name).touch()
    (tmp_path / "show").write_text('printf "%s\\n" "$@"\n')
    (tmp_path / "Makefile").write_text(makefile)
    command = ["make", "-s", "RUN=sh show", "migrate", f"FILE={file}", "ARGS=--to '1 2'"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["scripts/run_migration.py", *given, "--to", "1 2"]


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_make_mends_an_environment_made_by_halves(makefile: str, tmp_path: Path) -> None:
    """As `python3 -m venv` leaves it on Debian without the package python3-venv: there is a Python, and no pip."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / ".venv"], check=True)
    (tmp_path / "requirements.txt").touch()
    (tmp_path / "Makefile").write_text(makefile)
    command = ["make", "-s", ".venv/scripts", f"PYTHON={sys.executable}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, (tmp_path / ".venv/scripts").exists()) == (0, True), done.stderr


@pytest.mark.parametrize("columns", ["0", "1"])
def test_a_terminal_without_width(columns: str) -> None:
    """As some programs that run others on one leave it."""
    done = run_script("doctor.py", "--help", env={"COLUMNS": columns})
    assert (done.returncode, done.stderr) == (0, "")
    done = run_script("doctor.py", env={"COLUMNS": columns, "SUPABASE_URL": "x"})
    assert (done.returncode, done.stderr.split(".")[0]) == (2, "Error: SUPABASE_URL is not a URL")


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_option_has_a_line_of_help(help_of: dict[str, str], script: str) -> None:
    listed = help_of[script].split("\noptions:\n")[1].split("\nexamples:")[0]
    for entry in re.split(r"\n  (?=-)", "\n" + listed)[1:]:
        words = re.sub(r"^(-h, )?--\S+( [A-Z{]\S*)?", "", entry).split()
        assert len(words) >= 2, entry


def test_every_command_and_option_is_in_readme(help_of: dict[str, str], readme: str) -> None:
    assert [script for script in SCRIPTS if f"scripts/{script}" not in readme] == []
    assert options_in(help_of.values()) - options_in([readme]) == set()


def test_readme_names_no_option_or_script_that_there_is_not(help_of: dict[str, str], readme: str) -> None:
    assert options_in([readme]) - options_in(help_of.values()) == set()
    named = set(re.findall(r"\b(?:scripts/)?([a-z_]+\.py)\b", readme))
    assert named - set(SCRIPTS) == set()
    for line in re.findall(r"^python scripts/(.*)$", readme, re.MULTILINE):
        script, *arguments = line.split("#")[0].split()
        assert options_in(arguments) <= options_in([help_of[script]]), line


def test_readme_and_makefile_have_the_same_targets(readme: str, makefile: str) -> None:
    readme += (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE)) - {"help"}
    assert targets >= {"deploy-function", "migrate-clusters", "migration-all", "verify-clusters", "rollback-clusters"}
    assert targets - set(re.findall(r"`make ([a-z-]+)`", readme)) == set()
    for path in (ROOT / "README.md", ROOT / "tests/README.md", ROOT / ".ci/run", *SOURCES):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            assert (
                set(re.findall(r"(?:^|[`\"':] ?)make ([a-z]+-[a-z-]+|[a-z]+(?=[`\"]))", text, re.MULTILINE)) <= targets
            ), path
    described = set(re.findall(r"^([a-z][a-z-]*):.*## \w", makefile, re.MULTILINE))
    assert targets - described == set(), "make alone lists each with a line"
    assert set(re.findall(r"scripts/([a-z_]+\.py)", makefile)) <= set(SCRIPTS)


def test_every_variable_is_in_readme_and_none_besides(readme: str) -> None:
    assert known_variables() - set(VARIABLE.findall(readme)) == set()
    assert set(VARIABLE.findall(readme)) - known_variables() == set()


def test_the_example_of_env_has_known_variables() -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    named = set(re.findall(r"^#? ?([A-Z_]+)=", example, re.MULTILINE))
    assert {"SUPABASE_URL", "SUPABASE_SERVICE_KEY", "SUPABASE_ANON_KEY"} <= named <= known_variables()


def test_exit_codes_are_in_readme(help_of: dict[str, str], readme: str) -> None:
    codes = EXIT_CODE.findall(help_of["migrate_clusters.py"].split("\nexit codes:\n")[1])
    table = readme.split("\n| exit code |")[1].split("\n\n", maxsplit=1)[0]
    assert re.findall(r"^\| (\d+) \|", table, re.MULTILINE) == codes


def test_the_symptoms_in_readme_are_what_is_printed(readme: str) -> None:
    section = readme.split("## Troubleshooting")[1].split("\n## ", maxsplit=1)[0]
    symptoms = [
        message
        for line in section.splitlines()
        if line.startswith("| `")
        for message in re.findall(r"^\| `(.*?)` \|", line)
    ]
    assert len(symptoms) > 10
    source = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
    # What a placeholder stands for, or what another literal begins with, is not in the source as it is printed.
    gap = re.compile(r"\.\.\.|An older(?= version)|user_clusters_backup|SUPABASE_URL| for a|holds |(?= is under way)")
    unknown = [symptom for symptom in symptoms if not all(part in source for part in gap.split(symptom))]
    assert unknown == []


def test_what_is_said_of_security_is_shown_by_tests_that_are_there() -> None:
    """Every threat names the files that show what stops it."""
    readme = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    page = readme.partition("## Security")[2].partition("\n## ")[0]
    threats = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| threat")]
    assert len(threats) > 10
    for line in threats:
        named = re.findall(r"`(tests/\w+/test_\w+)`", line.rpartition(" | ")[2])
        assert named, line
        assert all((ROOT / f"{name}.py").is_file() for name in named), line


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """To a file that is there, and to one of its headings; and a heading of its own is in each page's contents."""
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("https://")]
    for link in links:
        path, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link
    contents = re.search(r"\*\*Contents:\*\*.*?\n\n", text, re.DOTALL)
    if contents:
        assert re.findall(r"\(#(.*?)\)", contents[0]) == anchors(text)


def anchors(page: str) -> list[str]:
    """What GitHub makes of the second-level headings of a page."""
    return [
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^## (.*)$", page, re.MULTILINE)
    ]
