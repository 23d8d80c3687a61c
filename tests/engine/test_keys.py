"""What is read off an API key, and which mistakes are told before it is sent anywhere."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from local_supabase.keys import Keys
from rpc_migrations.errors import SettingsError
from rpc_migrations.keys import check_key, read_access_token, read_key

REF = "abcdefghijklmnopqrst"
OTHER_REF = "zyxwvutsrqponmlkjihg"
# The same in every process, because tests are named after them.
KEYS = Keys(REF, "s" * 40, "sb_secret_one_one", "sb_publishable_one_one", "sbp_0123456789")
YEAR_2100 = 4_102_444_800
NAME = "SUPABASE_SERVICE_KEY"


def jwt(payload: Any) -> str:
    """Something in the form of a JWT; nobody checks its signature here."""
    text = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return f"e30.{base64.urlsafe_b64encode(text).decode().rstrip('=')}.c2ln"


@pytest.mark.parametrize(
    ("value", "role", "form", "project"),
    [
        (KEYS.service_key, "service_role", "legacy JWT", REF),
        (KEYS.anon_key, "anon", "legacy JWT", REF),
        (KEYS.authenticated_key("u"), "authenticated", "legacy JWT", REF),
        (KEYS.secret_key, "service_role", "secret key", None),
        (KEYS.publishable_key, "anon", "publishable key", None),
        (jwt({"role": "service_role"}), "service_role", "legacy JWT", None),
        (jwt({"role": 7, "ref": None}), None, "legacy JWT", None),
        ("whatever", None, "unknown form", None),
        ("a.b.c", None, "unknown form", None),
        (jwt(b"[1]"), None, "unknown form", None),
        (jwt(b"\xff"), None, "unknown form", None),
    ],
)
def test_a_key_tells_its_role_form_and_project(value: str, role: str | None, form: str, project: str | None) -> None:
    key = read_key(value, NAME)
    assert (key.value, key.variable, key.role, key.form, key.project) == (value, NAME, role, form, project)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (KEYS.service_key, f"service key (legacy JWT, project {REF}, from {NAME})"),
        (KEYS.anon_key, f"anon key (legacy JWT, project {REF}, from {NAME})"),
        (KEYS.secret_key, f"service key (secret key, from {NAME})"),
        (KEYS.publishable_key, f"anon key (publishable key, from {NAME})"),
        (jwt({"role": "teacher"}), f"key for role teacher (legacy JWT, from {NAME})"),
        ("whatever", f"key (unknown form, from {NAME})"),
    ],
)
def test_a_key_is_described_by_kind_and_never_shown(value: str, words: str) -> None:
    key = read_key(value, NAME)
    assert key.describe() == words
    assert value not in repr(key)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (" sb_secret_x", "white space"),
        ("sb_secret_x\n", "white space"),
        ("sb_se cret", "white space"),
        ("sb_secret\u00a0x", "white space"),
        ('"sb_secret_x"', "characters that no key has"),
        ("<your-key>", "characters that no key has"),
        ("clé", "characters that no key has"),
        ("sb_secret_\u200b", "characters that no key has"),
        ("sb_secret_\0", "characters that no key has"),
        (KEYS.access_token, "personal access token"),
    ],
)
def test_what_is_no_key_is_told(value: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as error:
        read_key(value, NAME)
    assert NAME in error.value.message
    assert error.value.hint
    assert value.strip() not in f"{error.value.message} {error.value.hint}"


@pytest.mark.parametrize(
    ("value", "expected", "message", "hint"),
    [
        (KEYS.anon_key, "service_role", "holds an anon", "API Keys"),
        (KEYS.publishable_key, "service_role", "holds an anon", "API Keys"),
        (KEYS.service_key, "anon", "holds a service", "SUPABASE_SERVICE_KEY"),
        (KEYS.secret_key, "anon", "holds a service", "to a browser"),
        (KEYS.make_key("authenticated"), "service_role", "a key for role authenticated", "API Keys"),
        (KEYS.make_key("service_role", exp=86_400), "service_role", "expired on 1970-01-02", "current one"),
        (jwt({"role": "service_role", "exp": 0}), "service_role", "expired on 1970-01-01", "current one"),
        (KEYS.make_key("service_role", ref=OTHER_REF), "service_role", f"is for project {OTHER_REF}", "same project"),
    ],
)
def test_a_key_that_cannot_work_is_told(value: str, expected: str, message: str, hint: str) -> None:
    with pytest.raises(SettingsError, match=message) as error:
        check_key(read_key(value, NAME), expected_role=expected, project=REF)
    assert hint in (error.value.hint or "")
    assert value not in f"{error.value.message} {error.value.hint}"


@pytest.mark.parametrize(
    ("value", "project"),
    [
        (KEYS.service_key, REF),
        (KEYS.service_key, None),  # behind a domain of one's own
        (KEYS.secret_key, REF),
        (jwt({"role": "service_role", "exp": YEAR_2100}), REF),
        (jwt({"role": "service_role", "exp": "soon"}), REF),
        (jwt({"role": "service_role", "exp": True}), REF),
        ("whatever", REF),
    ],
)
def test_a_key_that_may_work_is_let_through(value: str, project: str | None) -> None:
    check_key(read_key(value, NAME), expected_role="service_role", project=project)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
)


@given(
    st.text() | st.dictionaries(st.sampled_from(["role", "ref", "exp"]), json_values | st.just(10**400)).map(jwt)
    | st.binary(max_size=30).map(jwt)
)  # fmt: skip
def test_any_text_is_a_key_or_a_settings_error(value: str) -> None:
    try:
        key = read_key(value, NAME)
        check_key(key, expected_role="service_role", project=REF)
    except SettingsError:
        return
    assert key.value == value


def test_a_payload_nested_too_deeply_is_no_payload() -> None:
    assert read_key(jwt(b"[" * 100_000), NAME).form == "unknown form"


def test_an_access_token_is_taken() -> None:
    assert read_access_token(KEYS.access_token, "SUPABASE_ACCESS_TOKEN").form == "personal access token"


@pytest.mark.parametrize("value", ["sbp_a b", KEYS.service_key, "sbp_é"])
def test_what_is_no_access_token_is_told(value: str) -> None:
    with pytest.raises(SettingsError, match="SUPABASE_ACCESS_TOKEN") as error:
        read_access_token(value, "SUPABASE_ACCESS_TOKEN")
    assert value not in f"{error.value.message} {error.value.hint}"
