"""Where settings come from, and which of them are refused."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from checkout import Checkout, said
from local_supabase.keys import Keys
from rpc_migrations import settings as settings_module
from rpc_migrations.errors import SettingsError
from rpc_migrations.settings import ANON_KEY_VARIABLES, SERVICE_KEY_VARIABLES, Settings, load_settings

REF = "abcdefghijklmnopqrst"
OTHER_REF = "zyxwvutsrqponmlkjihg"
Load = Callable[..., Settings]

URL = f"https://{REF}.supabase.co"
# The same in every process, because tests are named after them.
KEYS = Keys(REF, "s" * 40, "sb_secret_one_one", "sb_publishable_one_one", "sbp_0123456789")
OTHER_KEYS = Keys(REF, "t" * 40, "sb_secret_two_two", "sb_publishable_two_two", "sbp_9876543210")
NAMES = (
    *SERVICE_KEY_VARIABLES, *ANON_KEY_VARIABLES, "SUPABASE_URL", "SUPABASE_ACCESS_TOKEN", "MIGRATION_ALLOW_HTTP",
    "MIGRATION_MANAGEMENT_URL", "MIGRATION_PATIENCE", "MIGRATION_REQUEST_TIMEOUT",
)  # fmt: skip


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A project's root with nothing in it, and an environment without settings."""
    monkeypatch.setattr(settings_module, "PROJECT_ROOT", tmp_path)
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """`load(SUPABASE_URL=…)` reads the settings from such an environment."""

    def load_from(**environment: str) -> Settings:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return load_settings()

    return load_from


# --- where they come from


def test_without_anything_there_are_no_credentials(load: Load) -> None:
    settings = load()
    assert (settings.url, settings.key, settings.project, settings.access_token) == (None, None, None, None)
    assert (settings.patience, settings.request_timeout) == (300.0, 75.0)
    assert settings.management_url == "https://api.supabase.com"
    assert not settings.has_credentials


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, "SUPABASE_URL and SUPABASE_SERVICE_KEY (or SUPABASE_ANON_KEY) are not set"),
        ({"SUPABASE_URL": URL}, "SUPABASE_SERVICE_KEY (or SUPABASE_ANON_KEY) is not set"),
        ({"SUPABASE_SECRET_KEY": KEYS.secret_key}, "SUPABASE_URL is not set"),
    ],
)
def test_what_is_missing_is_named(load: Load, environment: dict[str, str], words: str) -> None:
    settings = load(**environment)
    assert not settings.has_credentials
    assert settings.missing() == words


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("name", SERVICE_KEY_VARIABLES)
def test_the_file_is_read(root: Path, load: Load, name: str, mark: str) -> None:
    lines = f"{mark}SUPABASE_URL={URL}\n# a comment\nexport {name}='{KEYS.service_key}'\nMIGRATION_PATIENCE=7\n"
    (root / ".env").write_text(lines, encoding="utf-8")
    settings = load()
    assert (settings.url, settings.patience) == (URL, 7)
    assert settings.key is not None
    assert (settings.key.value, settings.key.variable) == (KEYS.service_key, name)


def test_the_environment_wins_over_the_file(root: Path, load: Load) -> None:
    lines = (
        f"SUPABASE_URL=https://{OTHER_REF}.supabase.co\nSUPABASE_SERVICE_KEY={KEYS.secret_key}\nMIGRATION_PATIENCE=7\n"
    )
    (root / ".env").write_text(lines)
    settings = load(SUPABASE_URL=URL, SUPABASE_SERVICE_KEY=OTHER_KEYS.secret_key)
    assert settings.key is not None
    assert (settings.url, settings.key.value, settings.patience) == (URL, OTHER_KEYS.secret_key, 7)


def test_an_empty_variable_hides_the_one_in_the_file(root: Path, load: Load) -> None:
    (root / ".env").write_text(f"SUPABASE_URL={URL}\nSUPABASE_SERVICE_KEY={KEYS.secret_key}\n")
    settings = load(SUPABASE_URL="", HOME="")
    assert settings.url is None
    assert (
        settings.missing() == "SUPABASE_URL is not set (SUPABASE_URL: empty in the environment, which wins over .env)"
    )


def test_an_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIGRATION_PATIENCE", "7")
    assert (load_settings().patience, load_settings(patience=3).patience) == (7, 3)


@pytest.mark.parametrize(
    "content", [b"SUPABASE_URL=caf\xe9", "SUPABASE_URL=x".encode("utf-16"), "SUPABASE_URL=x".encode("utf-16-le")]
)
def test_a_file_that_is_no_text_is_told(root: Path, load: Load, content: bytes) -> None:
    (root / ".env").write_bytes(content)
    with pytest.raises(SettingsError, match=r"\.env cannot be read"):
        load()


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        (f"# mine\nset SUPABASE_URL={URL}\n", 2),
        (f"SUPABASE_URL: {URL}\n", 1),
        (f'A=1\n\nSUPABASE_URL="{URL}";\n', 3),
        (f'SUPABASE_URL="{URL}\n', 1),
        (f'B="open\nSUPABASE_URL={URL}\nC="closed"\n', 1),
    ],
)
def test_a_setting_on_a_line_that_is_none_is_told_and_not_taken_for_unset(
    root: Path, load: Load, lines: str, line: int
) -> None:
    (root / ".env").write_text(lines)
    with pytest.raises(SettingsError, match=rf"\.env cannot be read at line {line}\."):
        load()


def test_what_others_keep_in_the_file_is_left_alone(root: Path, load: Load) -> None:
    (root / ".env").write_text(f"MOTTO='it's'\nSUPABASE_URL={URL}\n")
    assert load().url == URL


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("NEXT_PUBLIC_SUPABASE_URL=x\nSUPABASE_SERVICE_ROLE_KEY=sb_secret_x", "SUPABASE_URL is not set (NEXT_PUBLIC_SUPABASE_URL: not read here)"),
        ("supabase_url=x\nSUPABASE_SERVICE_KEY=sb_secret_x", "SUPABASE_URL is not set (supabase_url: not read here)"),
        ("API_URL=x\nSERVICE_ROLE_KEY=y\nSECRET_KEY=z", "are not set (API_URL, SERVICE_ROLE_KEY: not read here)"),
        (f"SUPABASE_URL={URL}\nVITE_SUPABASE_URL=x\nVITE_SUPABASE_ANON_KEY=y", "is not set (VITE_SUPABASE_ANON_KEY: not read here)"),
    ],
)  # fmt: skip
def test_names_that_frameworks_have_for_what_is_missing_are_told(
    root: Path, load: Load, lines: str, words: str
) -> None:
    (root / ".env").write_text(lines)
    assert words in load().missing()


def test_what_is_no_file_is_told_and_not_taken_for_none(root: Path, load: Load) -> None:
    (root / ".env").mkdir()
    with pytest.raises(SettingsError, match=r"\.env cannot be read"):
        load()


def test_a_pipe_is_read(root: Path, load: Load) -> None:
    """As password managers put it there."""
    os.mkfifo(root / ".env")
    writer = threading.Thread(target=(root / ".env").write_text, args=(f"SUPABASE_URL={URL}\n",), daemon=True)
    writer.start()
    assert load().url == URL


def test_a_script_reads_the_file_at_its_root_wherever_it_is_run(checkout: Checkout, tmp_path: Path) -> None:
    (checkout.root / ".env").write_text("SUPABASE_URL=not a url\n")
    (tmp_path / ".env").write_text("SUPABASE_URL=https://db.example.com\n")
    for where in (checkout.root, tmp_path):
        # None: not in the environment at all, so that the file may say it.
        done = checkout.run("deploy_sql_function.py", env={"SUPABASE_URL": None}, cwd=where)
        said(done, "SUPABASE_URL is not a URL", "What to do", code=2)


# --- which key


@pytest.mark.parametrize("name", [*SERVICE_KEY_VARIABLES, *ANON_KEY_VARIABLES])
def test_each_name_is_understood(load: Load, name: str) -> None:
    value = KEYS.secret_key if name in SERVICE_KEY_VARIABLES else KEYS.publishable_key
    key = load(**{"SUPABASE_URL": URL, name: value}).key
    assert key is not None
    assert (key.value, key.variable) == (value, name)


@pytest.mark.parametrize(
    ("winner", "loser"),
    [
        ("SUPABASE_SERVICE_KEY", "SUPABASE_SECRET_KEY"),
        ("SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY"),
        ("SUPABASE_SERVICE_ROLE_KEY", "SUPABASE_ANON_KEY"),
        ("SUPABASE_SERVICE_KEY", "SUPABASE_PUBLISHABLE_KEY"),
        ("SUPABASE_ANON_KEY", "SUPABASE_PUBLISHABLE_KEY"),
    ],
)
def test_the_first_of_two_keys_is_taken(load: Load, winner: str, loser: str) -> None:
    def value(name: str, keys: Keys) -> str:
        return keys.secret_key if name in SERVICE_KEY_VARIABLES else keys.publishable_key

    key = load(**{"SUPABASE_URL": URL, loser: value(loser, OTHER_KEYS), winner: value(winner, KEYS)}).key
    assert key is not None
    assert (key.variable, key.value) == (winner, value(winner, KEYS))


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"SUPABASE_SERVICE_KEY": KEYS.anon_key}, "SUPABASE_SERVICE_KEY holds an anon"),
        ({"SUPABASE_ANON_KEY": KEYS.secret_key}, "SUPABASE_ANON_KEY holds a service"),
        ({"SUPABASE_SERVICE_KEY": KEYS.make_key("service_role", ref=OTHER_REF)}, f"is for project {OTHER_REF}"),
        ({"SUPABASE_SERVICE_KEY": KEYS.make_key("service_role", exp=1)}, "expired"),
        ({"SUPABASE_ACCESS_TOKEN": "sb_secret_x"}, "SUPABASE_ACCESS_TOKEN is not a personal access token"),
        ({"SUPABASE_ACCESS_TOKEN": "sbp_x y"}, "SUPABASE_ACCESS_TOKEN has white space"),
    ],
)
def test_a_key_at_the_wrong_place_is_refused(load: Load, environment: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load(SUPABASE_URL=URL, **environment)


# --- the URL


@pytest.mark.parametrize(
    ("value", "url", "project"),
    [
        (URL, URL, REF),
        (f"{URL}/", URL, REF),
        (f" {URL}\n", URL, REF),
        (f"{URL}/rest/v1/", URL, REF),
        (f"HTTPS://{REF.upper()}.Supabase.co", URL, REF),
        (f"{URL}/anything", URL, REF),
        ("https://api.example.com:8443", "https://api.example.com:8443", None),
        ("https://example.com/supabase", "https://example.com/supabase", None),  # self-hosted, beside other things
        ("https://example.com/a/supabase/", "https://example.com/a/supabase", None),
        ("https://example.com/supabase/rest/v1/rpc/x?y=1#z", "https://example.com/supabase", None),
        ("http://localhost:8000/project/default", "http://localhost:8000", None),  # the dashboard, at the same port
        ("http://localhost:54321", "http://localhost:54321", None),
        ("http://127.0.0.1:54321", "http://127.0.0.1:54321", None),
        ("http://127.9.9.9", "http://127.9.9.9", None),
        ("http://[::1]:54321", "http://[::1]:54321", None),
        ("http://supabase.localhost", "http://supabase.localhost", None),
    ],
)
def test_a_url_is_understood(load: Load, value: str, url: str, project: str | None) -> None:
    settings = load(SUPABASE_URL=value)
    assert (settings.url, settings.project) == (url, project)


@pytest.mark.parametrize(
    ("value", "message", "hint"),
    [
        ("nonsense", "is not a URL", "YOUR-PROJECT.supabase.co"),
        (f"{REF}.supabase.co", "is not a URL", f"SUPABASE_URL={URL}"),
        ("https://", "is not a URL", "YOUR-PROJECT"),
        ("https://a b.co", "is not a URL", "YOUR-PROJECT"),
        ("https://a..co", "is not a URL", "YOUR-PROJECT"),
        (f"https://{'x' * 64}.co", "is not a URL", "YOUR-PROJECT"),
        ("https://[::1", "is not a URL", "YOUR-PROJECT"),
        ("https://host:99999", "is not a URL", "YOUR-PROJECT"),
        ("https://<project>.supabase.co", "is not a URL", "YOUR-PROJECT"),
        ("ftp://example.com", "is not a URL", "YOUR-PROJECT"),
        ("https://YOUR-PROJECT.supabase.co", "placeholder", "Data API"),
        (f"https://supabase.com/dashboard/project/{REF}/sql/new", "the dashboard", f"SUPABASE_URL={URL}"),
        (f"https://app.supabase.com/project/{REF}", "the dashboard", f"SUPABASE_URL={URL}"),
        ("https://supabase.com/dashboard/project/_/settings/api", "the dashboard", "YOUR-PROJECT.supabase.co"),
        ("https://supabase.com/dashboard/org/abc", "the dashboard", "YOUR-PROJECT.supabase.co"),
        (f"https://api.supabase.com/v1/projects/{REF}", "the dashboard", f"SUPABASE_URL={URL}"),
        (f"https://mcp.supabase.com/mcp?project_ref={REF}", "the dashboard", f"SUPABASE_URL={URL}"),
        ("https://api.supabase.com", "the dashboard", "YOUR-PROJECT.supabase.co"),
        ("https://example.com/a\x01b", "is not a URL", "YOUR-PROJECT"),
        (f"postgresql://postgres:pw@db.{REF}.supabase.co:5432/postgres", "the database", f"SUPABASE_URL={URL}"),
        (f"POSTGRES://postgres.{REF}:pw@aws-0-eu.pooler.supabase.com:6543/a", "the database", f"SUPABASE_URL={URL}"),
        (f"jdbc:postgresql://db.{REF}.supabase.co:5432/a?password=pw", "the database", f"SUPABASE_URL={URL}"),
        (f"https://db.{REF}.supabase.co", "the database", f"SUPABASE_URL={URL}"),
        (f"db.{REF}.supabase.co", "the database", f"SUPABASE_URL={URL}"),
        ("https://aws-0-eu-central-1.pooler.supabase.com", "the database", "YOUR-PROJECT.supabase.co"),
        ("postgresql://postgres:pw@localhost:54322/postgres", "the database", "YOUR-PROJECT.supabase.co"),
        (f"https://user:pw@{REF}.supabase.co", "user name or password", "SUPABASE_SERVICE_KEY"),
        ("http://example.com", "would travel unencrypted", "--allow-http"),
        ("http://192.168.1.5:8000", "would travel unencrypted", "MIGRATION_ALLOW_HTTP=1"),
        ("http://localhost.example.com", "would travel unencrypted", "--allow-http"),
    ],
)
def test_a_url_that_cannot_work_is_told(load: Load, value: str, message: str, hint: str) -> None:
    with pytest.raises(SettingsError, match=message) as error:
        load(SUPABASE_URL=value)
    assert hint in (error.value.hint or "")
    assert error.value.exit_code == 2
    assert "pw" not in f"{error.value.message} {error.value.hint}"


def test_http_is_let_through_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_URL", "http://kong:8000")
    assert load_settings(allow_http=True).url == "http://kong:8000"
    monkeypatch.setenv("MIGRATION_ALLOW_HTTP", "1")
    assert load_settings().url == "http://kong:8000"


# --- the rest


@pytest.mark.parametrize(
    ("url", "key", "project"),
    [
        (URL, KEYS.service_key, REF),
        (URL, KEYS.secret_key, REF),
        ("https://api.example.com", KEYS.service_key, REF),
        ("https://api.example.com", KEYS.secret_key, None),
    ],
)
def test_the_project_comes_from_the_url_or_else_from_the_key(
    load: Load, url: str, key: str, project: str | None
) -> None:
    settings = load(SUPABASE_URL=url, SUPABASE_SERVICE_KEY=key)
    assert settings.project == project
    assert settings.sql_editor_url == (project and f"https://supabase.com/dashboard/project/{project}/sql/new")


def test_an_access_token_must_not_travel_unencrypted_either(load: Load) -> None:
    with pytest.raises(SettingsError, match=r"MIGRATION_MANAGEMENT_URL is http:// to api\.example\.com"):
        load(MIGRATION_MANAGEMENT_URL="http://api.example.com")


@pytest.mark.parametrize("value", ["api.supabase.com", "https://me:pw@api.supabase.com"])
def test_another_address_of_the_management_api_is_no_projects(load: Load, value: str) -> None:
    with pytest.raises(SettingsError, match="MIGRATION_MANAGEMENT_URL") as error:
        load(MIGRATION_MANAGEMENT_URL=value)
    assert error.value.hint == "Set it to an address such as https://api.supabase.com, or leave it out."


@pytest.mark.parametrize("value", ["200", "30.1", "0"])
def test_a_lock_budget_in_milliseconds_is_told(load: Load, value: str) -> None:
    with pytest.raises(SettingsError, match="MIGRATION_LOCK_BUDGET is not a positive number of seconds up to 30"):
        load(MIGRATION_LOCK_BUDGET=value)


@pytest.mark.parametrize("name", ["MIGRATION_PATIENCE", "MIGRATION_REQUEST_TIMEOUT"])
@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf", "1e9"])
def test_seconds_that_are_none_are_told(load: Load, name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is not a positive number of seconds"):
        load(**{name: value})


def test_no_value_of_a_key_is_in_the_settings_repr(load: Load) -> None:
    settings = load(SUPABASE_URL=URL, SUPABASE_SERVICE_KEY=KEYS.secret_key, SUPABASE_ACCESS_TOKEN=KEYS.access_token)
    assert KEYS.secret_key not in repr(settings)
    assert KEYS.access_token not in repr(settings)
