"""The embedded PostgreSQL server and the databases in it, made the way Supabase makes them."""

from __future__ import annotations

import atexit
import os
import re
import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from local_supabase.guard import Guard
from local_supabase.programs import as_server_user, find_programs, give_to_server_user, reachable_programs

DefaultGrants = Literal["all", "none"]
StopMode = Literal["smart", "fast", "immediate"]

SUPERUSER = "supabase_admin"
_HERE = Path(__file__).parent
_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_TIMEOUT_SECONDS = 60.0
_MEMORY = "/dev/shm"
_PLENTY_BYTES = 8 << 30
_POLL_SECONDS = 0.005

# Whether columns lack what the releases of 12 November 2026 note about them: initdb's views have it there.
_LACKS_PG_ATTVER = """
select not exists (select from pg_attribute where attrelid = 'information_schema.tables'::regclass and attoptions is not null)
"""
# What no comparison of two dumps wants: `pg_attver`, as a pg_dump that does not know it writes it, alone or beside other options
# of a column, and the random word in the first and the last line.
_IN_A_DUMP = re.compile(
    r"""
    ^ALTER\ (FOREIGN\ )?TABLE\ ONLY\ \S+\ ALTER\ COLUMN\ .*\ SET\ \(pg_attver=\d+\);\n
    | \bpg_attver=\d+(,\ )?
    | ^\\(un)?restrict\ .*\n
    """,
    re.MULTILINE | re.VERBOSE,
)

# Nothing here changes what a statement does or answers: fsync only matters when the machine itself goes down.
_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "256MB",
    "max_connections": "200",
    "max_wal_size": "4GB",
    # As on Supabase: a publication can be used, and creating one gives no warning.
    "wal_level": "logical",
    # In the data directory, so that a server that was killed leaves nothing in /dev/shm.
    "dynamic_shared_memory_type": "mmap",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    "autovacuum_naptime": "5s",
}


class Cluster:
    """A PostgreSQL server of our own in a fresh directory under /tmp, reachable through a Unix socket.

    Use it as a context manager, or call `start` and, at the end, `close`. Whatever happens to this process,
    server and directory go away with it. `tcp_port` makes it listen on 127.0.0.1 as well, for programs that
    cannot do without. `settings` are PostgreSQL's, beside or in place of those that every cluster here has.
    """

    def __init__(self, tcp_port: int | None = None, **settings: str) -> None:
        # /tmp rather than TMPDIR: the path of a Unix socket is limited to 107 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="supabase-", dir="/tmp"))
        self.programs = find_programs()
        self.port = tcp_port or 5432
        self.log_file = self.directory / "log"
        self._listen = "127.0.0.1" if tcp_port else ""
        self._settings = settings
        self._data_home = Path(tempfile.mkdtemp(prefix="supabase-data-", dir=_where_data_goes()))
        self.data_directory = self._data_home / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._guard = Guard(self.directory, self._data_home)
        self._server_programs = self.programs
        self._initialised = False
        atexit.register(self.close)

    @property
    def socket_directory(self) -> Path:
        """What `psql -h` and PGHOST take."""
        return self.directory

    @property
    def running(self) -> bool:
        """Whether the server process is alive."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> Self:
        """Start the server (make it first, the first time) and return once it takes connections."""
        if self.running:
            return self
        if not self._initialised:
            self._initialise()
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while not self._try_start(deadline):
            if time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start:\n{self.log_file.read_text()[-2000:]}")
        if not self._initialised:
            self._make_templates()
            self._initialised = True
        return self

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server and wait for its end; `immediate` is a crash that the next start recovers from."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            os.kill(process.pid, _SIGNALS[mode])
        process.wait(_TIMEOUT_SECONDS)
        self._guard.forget(process.pid)
        self._process = None

    def restart(self, mode: StopMode = "immediate") -> None:
        """Stop the server and start it again; every connection breaks."""
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """kill -9 the server. Its backends notice and end by themselves; `start` waits for them."""
        if self._process is not None:
            self._process.kill()
            self.stop()

    def close(self) -> None:
        """Stop the server and remove everything that belongs to it; may be called more than once."""
        atexit.unregister(self.close)
        self.stop("immediate")
        self._guard.release()

    def create_database(self, name: str | None = None, default_grants: DefaultGrants = "all") -> Database:
        """A fresh database as a new Supabase project has it, owned by `postgres`.

        `default_grants`: "all" is what Supabase's init scripts set up (new tables, sequences and functions in
        public are granted to the API's roles), "none" is what hosted projects have since 30 October 2026.
        """
        name = name or f"db_{secrets.token_hex(6)}"
        with self.connect() as connection:
            connection.execute(
                sql.SQL("create database {} owner postgres template {}").format(
                    sql.Identifier(name), sql.Identifier(_template(default_grants))
                )
            )
        return Database(self, name)

    def connect(self, role: str = SUPERUSER, database: str = "postgres", **options: Any) -> psycopg.Connection[Any]:
        """A connection in autocommit mode; without arguments the superuser's, to the maintenance database."""
        options.setdefault("autocommit", True)
        return psycopg.connect(self.dsn(role, database), **options)

    def dsn(self, role: str = SUPERUSER, database: str = "postgres") -> str:
        """A libpq connection string for psycopg, psql, pg_dump or PostgREST."""
        return make_conninfo(host=str(self.directory), port=self.port, user=role, dbname=database)

    def _initialise(self) -> None:
        give_to_server_user(self.directory)
        give_to_server_user(self._data_home)
        self._server_programs = reachable_programs(self.programs, self.directory)
        command: list[str | Path] = [
            self._server_programs / "initdb",
            "--pgdata",
            self.data_directory,
            "--username",
            SUPERUSER,
        ]
        command += ["--auth=trust", "--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C.UTF-8"]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, cwd=self.directory, start_new_session=True,
            **as_server_user(),
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"initdb failed: {done.stderr}")

    def _try_start(self, deadline: float) -> bool:
        """One attempt. False when the backends of a killed server still hold its shared memory: try again."""
        settings = {**_SETTINGS, **self._settings, "listen_addresses": self._listen, "port": str(self.port)}
        settings["unix_socket_directories"] = str(self.directory)
        command: list[str | Path] = [self._server_programs / "postgres", "-D", self.data_directory]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with self.log_file.open("ab") as log:
            # A session of its own: Ctrl-C in the terminal is for us, and must not shut the server down before
            # its users.
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                start_new_session=True,
                **as_server_user(),
            )
        self._guard.watch(self._process.pid)
        while self._process.poll() is None:
            if self._ready():
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        self._guard.forget(self._process.pid)
        tail = self.log_file.read_text()[-2000:]
        if "pre-existing shared memory block" not in tail:
            raise RuntimeError(f"PostgreSQL did not start:\n{tail}")
        time.sleep(_POLL_SECONDS)
        return False

    def _ready(self) -> bool:
        """As pg_ctl does it: the server notes its state in the last line of postmaster.pid, its pid in the
        first.
        """
        try:
            lines = (self.data_directory / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return (
            self._process is not None
            and len(lines) >= 8
            and lines[0] == str(self._process.pid)
            and (lines[7].strip() == "ready")
        )

    def _make_templates(self) -> None:
        with self.connect() as connection:
            connection.execute((_HERE / "supabase_roles.sql").read_text())
            # What safeupdate.py makes the REST layer's sessions say is for it alone, and too much for a log.
            connection.execute("alter role authenticator set log_min_messages = 'fatal'")
            for kind in ("all", "none"):
                connection.execute(f"create database {_template(kind)} owner postgres")
        for kind in ("all", "none"):
            with self.connect(database=_template(kind)) as connection:
                connection.execute((_HERE / "supabase_database.sql").read_text())
                if kind == "none":
                    connection.execute((_HERE / "supabase_no_default_grants.sql").read_text())
                if connection.execute(_LACKS_PG_ATTVER).fetchone() == (True,):
                    connection.execute((_HERE / "pg_attver.sql").read_text())


class Database:
    """One database of a cluster."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name

    @property
    def socket_directory(self) -> Path:
        """What `psql -h` and PGHOST take."""
        return self.cluster.socket_directory

    def connect(self, role: str = "postgres", **options: Any) -> psycopg.Connection[Any]:
        """A connection in autocommit mode as a role that may log in; for the API's roles, `set role`
        afterwards.
        """
        return self.cluster.connect(role, self.name, **options)

    def dsn(self, role: str = "postgres") -> str:
        """A libpq connection string."""
        return self.cluster.dsn(role, self.name)

    def dump_schema(self, *options: str) -> str:
        """What `pg_dump --schema-only` writes, with further options of pg_dump; without the random word in it, and without
        `pg_attver`, which the releases that have it by themselves leave out.
        """
        command = [str(self.cluster.programs / "pg_dump"), "--schema-only", f"--dbname={self.dsn(SUPERUSER)}", *options]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return _IN_A_DUMP.sub("", text)

    @contextmanager
    def subscription(self, publication: str, subscriber: psycopg.Connection[Any]) -> Iterator[None]:
        """Within it the database of a superuser's session is sent what is written to a publication of this one from now on.

        The slot is made by itself: on one server CREATE SUBSCRIPTION would wait for its own transaction
        (https://www.postgresql.org/docs/current/sql-createsubscription.html#SQL-CREATESUBSCRIPTION-NOTES).
        """
        with self.connect(SUPERUSER) as publishing:
            publishing.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (publication,))
        subscriber.execute(
            f"create subscription {publication} connection '{self.dsn(SUPERUSER)}' publication {publication} "
            "with (create_slot = false, copy_data = false)"
        )
        try:
            yield
        finally:
            subscriber.execute(f"alter subscription {publication} disable")
            subscriber.execute(f"alter subscription {publication} set (slot_name = none)")
            subscriber.execute(f"drop subscription {publication}")

    def drop(self) -> None:
        """Drop the database, ending whatever is still connected to it."""
        with self.cluster.connect() as connection:
            connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(self.name)))


def _where_data_goes() -> str:
    """`LOCAL_SUPABASE_DATA`, else memory where there is plenty of it (new databases are quicker), or /tmp."""
    configured = os.environ.get("LOCAL_SUPABASE_DATA")
    if configured:
        return configured
    try:
        room = os.statvfs(_MEMORY)
        memory = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        available = int(memory["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return "/tmp"
    plenty = min(room.f_bavail * room.f_frsize, available) >= _PLENTY_BYTES
    return _MEMORY if plenty and os.access(_MEMORY, os.W_OK) else "/tmp"


def _template(default_grants: str) -> str:
    return f"template_supabase_{default_grants}"
