"""What a PostgreSQL store finds out about its server: each danger is brought about on a real one, then mended."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import chain, count, cycle
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from doorkey.core.errors import StoreUnavailable
from doorkey.storage import postgres, postgres_check, rows
from doorkey.storage.postgres import PostgresStore
from doorkey.storage.postgres_check import findings
from doorkey.storage.postgres_connections import alone, for_changes
from doorkey.storage.protocol import Finding, Properties
from tests.postgres_server import Server, command
from tests.storage.postgres_samples import MakeServer, key, new, token

Admin = psycopg.Connection[Any]
numbers = count()


@pytest.fixture(scope="module")
def server(make_server: MakeServer) -> Server:
    """A server that promises what a store needs, with a role for services."""
    server = make_server("fsync=on", "wal_sender_timeout=1s")
    with superuser(server) as admin:
        admin.execute("CREATE ROLE app LOGIN")
    return server


@contextmanager
def superuser(server: Server, database: str = "postgres") -> Iterator[Admin]:
    """Its operator, who waits for no standby."""
    options = "-c search_path=doorkey -c synchronous_commit=local"
    with psycopg.connect(server.url(database), autocommit=True, options=options) as connection:
        yield connection


@pytest.fixture
def database(server: Server) -> Iterator[str]:
    """The name of a database for one test, which shadows the URL of the shared one."""
    name = f"keys{next(numbers)}"
    with superuser(server) as admin:
        admin.execute(f"CREATE DATABASE {name}".encode())
        admin.execute(f"GRANT CREATE ON DATABASE {name} TO app".encode())
        yield name
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def admin(server: Server, database: str) -> Iterator[Admin]:
    """The operator of that database."""
    with superuser(server, database) as connection:
        yield connection


@pytest.fixture
def store(server: Server, database: str) -> Iterator[PostgresStore]:
    with closing(PostgresStore.create(server.url(database, "app"))) as store:
        store.commit(new(key(1), key(2)))
        yield store


def until(check: Callable[[], list[Finding]], says: str | None) -> Finding | None:
    """The only finding, once it says this; none, once there is none. A setting takes effect a moment later."""
    deadline = time.monotonic() + 10
    while True:
        found = check()
        if [finding.what for finding in found if says is None or says not in finding.what] == [] and (
            bool(found) is (says is not None)
        ):
            return found[0] if found else None
        assert time.monotonic() < deadline, (says, found)
        time.sleep(0.02)


def execute(admin: Admin, statements: str, database: str) -> None:
    for statement in statements.format(database=database).split(";"):
        admin.execute(statement.encode())
    admin.execute("SELECT pg_reload_conf()")


def test_a_sound_server(store: PostgresStore) -> None:
    """Nothing is found where all is well."""
    assert store.check() == []


@pytest.mark.parametrize(
    ("danger", "severity", "says", "remedy"),
    [
        (
            "ALTER SYSTEM SET full_page_writes = off",
            "warning",
            "full_page_writes = off",
            "ALTER SYSTEM SET full_page_writes = on",
        ),
        (
            "ALTER SYSTEM SET log_statement = 'mod'",
            "warning",
            "log_statement = mod",
            "ALTER ROLE app SET log_parameter_max_length = 0",
        ),
        (
            "ALTER SYSTEM SET log_min_duration_statement = 0",
            "warning",
            "log_min_duration_statement = 0",
            "ALTER ROLE app SET log_parameter_max_length = 0",
        ),
        (
            "ALTER DATABASE {database} SET default_transaction_read_only = on",
            "warning",
            "default_transaction_read_only = on",
            "ALTER DATABASE {database} RESET default_transaction_read_only",
        ),
        (
            "ALTER ROLE app SET synchronous_commit = local; ALTER SYSTEM SET synchronous_standby_names = 'one'",
            "warning",
            "(synchronous_commit = local)",
            "ALTER ROLE app SET synchronous_commit = on",
        ),
        ("ALTER ROLE app SUPERUSER", "warning", "the role app is a superuser", "ALTER ROLE app NOSUPERUSER"),
        (
            "ALTER ROLE app CONNECTION LIMIT 11",
            "warning",
            "lets 11 connections in",
            "ALTER ROLE app CONNECTION LIMIT 12",
        ),
        (
            "ALTER DATABASE {database} CONNECTION LIMIT 10",
            "warning",
            "lets 10 connections in",
            "ALTER DATABASE {database} CONNECTION LIMIT -1",
        ),
    ],
)
def test_a_setting_that_endangers_a_promise(
    store: PostgresStore, admin: Admin, database: str, danger: str, severity: str, says: str, remedy: str
) -> None:
    """It is found, and no more once its remedy was followed."""
    try:
        execute(admin, danger, database)
        found = until(store.check, says)
        assert found is not None and found.severity == severity and found.remedy
        execute(admin, remedy, database)
        until(store.check, None)
    finally:
        execute(admin, "ALTER SYSTEM RESET ALL; ALTER ROLE app RESET ALL; ALTER ROLE app CONNECTION LIMIT -1", database)
        until(store.check, None)


def test_a_server_that_does_not_wait_for_its_disk(make_server: MakeServer) -> None:
    """It is an error: what was acknowledged can be lost. A server for few is found, too."""
    server = make_server("fsync=off", "max_connections=14")
    with closing(PostgresStore.create(server.url())) as store:
        found = {finding.what.partition("postgres ")[2].split(":")[0]: finding.severity for finding in store.check()}
    assert found == {
        "runs with fsync = off": "error",
        "lets 11 connections in, and one process of a service alone may want 12": "warning",
        "": "warning",  # a superuser
    }


def test_a_log_that_holds_what_is_stored(server: Server, store: PostgresStore, admin: Admin, database: str) -> None:
    """The danger is real: a sealed token stands in it, though the store may have destroyed it since."""

    def is_logged(number: int) -> bool:
        sealed = bytes([number]) * 40
        store.commit(new_key(number, sealed))
        return sealed.hex() in (server.folder / "log").read_text()

    def new_key(number: int, sealed: bytes) -> Any:
        made = key(number, tokens=(replace(token(number), sealed=sealed),))
        return replace(new(made), workspaces=())

    assert not is_logged(11)
    try:
        execute(admin, "ALTER ROLE app SET log_statement = 'mod'", database)
        store._connections.empty()
        assert is_logged(12)
        assert [finding.severity for finding in store.check()] == ["warning"]
        execute(admin, "ALTER ROLE app SET log_parameter_max_length = 0", database)
        store._connections.empty()
        assert not is_logged(13)
        assert store.check() == []
    finally:
        execute(admin, "ALTER ROLE app RESET ALL", database)


def test_a_standby_that_nothing_waits_for(
    make_server: MakeServer, server: Server, store: PostgresStore, admin: Admin, database: str
) -> None:
    """A failover to it may forget a revocation; where commits wait for one, it does not. Itself it is refused."""
    standby = make_server(standby_of=server)
    try:
        until(store.check, "(synchronous_standby_names is empty)")
        execute(admin, "ALTER SYSTEM SET synchronous_standby_names = '*'", database)
        until(store.check, None)
    finally:
        execute(admin, "ALTER SYSTEM RESET ALL", database)
        until(store.check, "(synchronous_standby_names is empty)")
        standby.stop()
        until(store.check, None)


def test_a_database_of_another_encoding(server: Server) -> None:
    """Where somebody restored a store into one, not every name can be kept."""
    with superuser(server) as admin:
        admin.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C' OWNER app")
        try:
            options = "-c search_path=doorkey"
            with psycopg.connect(server.url("latin", "app"), autocommit=True, options=options) as owner:
                for statement in ("CREATE SCHEMA doorkey", *chain(*postgres._STEPS)):
                    owner.execute(statement.encode())
                insert = rows.INSERT_PROPERTIES.replace("?", "%s").encode()
                owner.execute(insert, rows.properties_row(Properties()))
            with closing(PostgresStore(server.url("latin", "app"))) as store:
                (found,) = store.check()
        finally:
            admin.execute("DROP DATABASE latin WITH (FORCE)")
    assert found.severity == "error" and "is encoded in LATIN1" in found.what


# The way there


def test_settings_that_do_not_arrive(server: Server, store: PostgresStore, database: str) -> None:
    """A pooler that leaves them out is found by what the server says of their origin."""
    ours = for_changes(server.url(database, "app"), 2)
    assert list(findings(ours, (), 12))[:-1] == []  # all that differs are the tables, as none were given
    without = replace(ours, parameters={**ours.parameters, "options": ""})
    (first, *_) = findings(without, (), 12)
    assert "(idle_in_transaction_session_timeout, search_path, statement_timeout)" in first.what


@pytest.mark.parametrize(
    ("own", "peer", "here"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.1.1", True),
        ("::1", "::1", True),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8::1", "2001:db8::2", False),
    ],
)
def test_what_stays_on_this_machine(own: str, peer: str, here: bool) -> None:
    """A connection whose two ends have one address."""
    assert postgres_check._is_here(own, peer) is here


def certificate(folder: Path) -> Path:
    """A new one for localhost, with its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))
    made = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(key, SHA256())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + made.public_bytes(Encoding.PEM)
    path = folder / "certificate.pem"
    path.write_bytes(pem)
    return path


@contextmanager
def encrypting(server: Server, certificate: Path) -> Iterator[int]:
    """The port of a way to *server*, which itself knows no TLS, for one connection with TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    def pass_on(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        plain, _ = listener.accept()
        plain.recv(8)  # SSLRequest
        plain.sendall(b"S")
        with (
            context.wrap_socket(plain, server_side=True) as client,
            socket.create_connection(("127.0.0.1", server.port)) as behind,
            ThreadPoolExecutor(2) as threads,
        ):
            threads.submit(pass_on, client, behind)
            threads.submit(pass_on, behind, client)

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as threads:
        serving = threads.submit(serve)
        yield listener.getsockname()[1]
        serving.result(10)


@pytest.mark.parametrize(
    ("options", "encrypted", "mode"),
    [
        ("", False, "prefer"),
        ("?sslmode=disable", False, "disable"),
        ("?host={folder}&port={port}", False, "prefer"),
        ("?port={tls}&sslmode=require", True, "require"),
        ("?port={tls}&sslmode=verify-ca&sslrootcert={certificate}", True, "verify-ca"),
    ],
)
def test_what_is_seen_of_the_way(server: Server, tmp_path: Path, options: str, encrypted: bool, mode: str) -> None:
    """Over a socket of this machine's and over TCP, with TLS and without."""
    made = certificate(tmp_path)
    with ExitStack() as stack:
        tls = stack.enter_context(encrypting(server, made)) if encrypted else None
        url = server.url() + options.format(folder=server.folder, port=server.port, tls=tls, certificate=made)
        with alone(for_changes(url, 5)) as connection:
            assert postgres_check._way(connection) == (True, encrypted, mode)


@pytest.mark.parametrize(
    ("here", "encrypted", "mode", "says"),
    [
        (True, False, "prefer", None),
        (False, False, "prefer", "is not encrypted"),
        (False, True, "prefer", "to whoever answered (sslmode=prefer)"),
        (False, True, "require", "to whoever answered (sslmode=require)"),
        (False, True, "verify-ca", None),
        (False, True, "verify-full", None),
    ],
)
def test_a_way_that_others_can_take(here: bool, encrypted: bool, mode: str, says: str | None) -> None:
    """What leaves this machine is to be encrypted, and to the right server."""
    found = list(postgres_check._of_way("db", here, encrypted, mode))
    assert [finding.severity for finding in found] == ["warning"] * (says is not None)
    assert all(str(says) in finding.what and "sslmode=verify-full" in finding.remedy for finding in found)


@pytest.mark.parametrize(
    ("met", "severity"), [({7}, []), ({8}, ["warning"]), ({7, 8}, ["error"]), ({8, 9}, ["error"])], ids=str
)
def test_a_pooler(met: set[int], severity: list[str]) -> None:
    """It is not who one connected to that answers; in transaction mode, not even always the same."""
    assert [finding.severity for finding in postgres_check._of_backends("db", 7, met)] == severity


# Clocks


def test_two_clocks(server: Server, store: PostgresStore, database: str) -> None:
    """How far they are apart is measured, and which of them is ahead."""
    ours = for_changes(server.url(database, "app"), 2)

    def found(off: float) -> list[Finding]:
        return [each for each in findings(ours, (), 12, clock=lambda: time.time() + off) if "the clock" in each.what]

    assert found(0) == found(0.9) == found(-0.9) == []
    for off, severity in ((3, "warning"), (-3, "warning"), (60, "error"), (-60, "error")):
        (finding,) = found(off)
        assert finding.severity == severity
        assert ("behind" if off > 0 else "ahead of") + " this machine's" in finding.what
        assert abs(off) - 0.5 < float(finding.what.partition("at least ")[2].split()[0]) <= abs(off) + 0.05


def test_a_slow_way_is_no_skew(server: Server, store: PostgresStore, database: str) -> None:
    """An answer that took 8 seconds tells no more than that the clocks may be the same; a quick one among them does."""
    ours = for_changes(server.url(database, "app"), 2)
    moments = cycle([time.time() - 4, time.time() + 4])
    assert [each for each in findings(ours, (), 12, clock=lambda: next(moments)) if "the clock" in each.what] == []
    (found,) = postgres_check._of_skew("db", [(-8, 8), (1.9, 2.1), (-8, 8)])
    assert found.severity == "warning"


# Tables


@pytest.mark.parametrize(
    ("change", "lacks", "has"),
    [
        ("ALTER TABLE keys DROP CONSTRAINT keys_mode_check", "constraint keys_mode_check on keys", None),
        ("ALTER TABLE tokens DROP CONSTRAINT tokens_id_key", "constraint tokens_id_key on tokens: UNIQUE (id)", None),
        ("ALTER TABLE tokens DROP CONSTRAINT tokens_key_fkey", "constraint tokens_key_fkey", None),
        ("DROP INDEX keys_by_workspace", "CREATE INDEX keys_by_workspace ON keys", None),
        (
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'keys_by_workspace'::regclass",
            "CREATE INDEX keys_by_workspace",
            "(workspace, id), invalid",
        ),
        ("ALTER TABLE tokens ALTER secret DROP NOT NULL", "column tokens.secret text NOT NULL", "column tokens.secret"),
        ("ALTER TABLE tokens ALTER place TYPE int", "column tokens.place bigint", "column tokens.place integer"),
        ('ALTER TABLE events ALTER key TYPE text COLLATE "default"', "column events.key text COLLATE C", "default"),
        ("ALTER TABLE keys ALTER name SET DEFAULT 'x'", "column keys.name text", "DEFAULT 'x'::text"),
        ("ALTER TABLE keys ADD colour text", None, "column keys.colour text"),
        ("ALTER TABLE tokens SET UNLOGGED", "table tokens", "table tokens, unlogged: a crash empties it"),
        ("ALTER TABLE keys ENABLE ROW LEVEL SECURITY", "table keys", "table keys, with row security"),
        ("ALTER TABLE tokens DISABLE TRIGGER ALL", "trigger of a foreign key on tokens", "not as usual: D"),
        (
            "CREATE TRIGGER same BEFORE UPDATE ON keys FOR EACH ROW "
            "EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            None,
            "trigger same on keys",
        ),
        ("CREATE RULE never AS ON UPDATE TO keys DO INSTEAD NOTHING", None, "rule never on keys"),
        ("CREATE VIEW names AS SELECT name FROM keys", None, "column names.name text COLLATE default; view names"),
        ("CREATE SEQUENCE numbers", None, "sequence numbers"),
    ],
)
def test_tables_that_were_altered(
    store: PostgresStore, admin: Admin, change: str, lacks: str | None, has: str | None
) -> None:
    """What is missing is an error; what came on top may be meant so."""
    admin.execute(change.encode())
    found = {finding.severity: finding.what for finding in store.check()}
    expected = {"error": lacks, "warning": has}
    assert {each for each, says in expected.items() if says is not None} == set(found)
    assert all("was altered" in what and str(expected[each]) in what for each, what in found.items())


def test_tables_of_something_else(store: PostgresStore, admin: Admin) -> None:
    """Of many differences the first are told, and how many more there are."""
    admin.execute("DROP TABLE events CASCADE")
    (found,) = store.check()
    assert found.severity == "error" and re.search(r"lacks (.*; ){2}.* and 1\d more$", found.what)


def test_tables_that_are_gone(store: PostgresStore, admin: Admin) -> None:
    """A schema that was dropped under a running service is one more thing that the store says of itself."""
    admin.execute("DROP SCHEMA doorkey CASCADE")
    with pytest.raises(StoreUnavailable, match="has not the tables"):
        store.check()


def test_a_role_that_cannot_compare(store: PostgresStore, admin: Admin, database: str) -> None:
    """It says so, rather than nothing; a role that may not write to the tables can."""
    admin.execute(f"REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC".encode())
    (found,) = store.check()
    assert found.severity == "warning" and "were not looked at" in found.what
    execute(admin, "GRANT TEMPORARY ON DATABASE {database} TO app", database)
    assert store.check() == []


def test_a_database_that_takes_no_changes_is_compared(store: PostgresStore, admin: Admin, database: str) -> None:
    """All the same."""
    execute(
        admin,
        "ALTER DATABASE {database} SET default_transaction_read_only = on; DROP INDEX keys_by_workspace",
        database,
    )
    assert [finding.severity for finding in store.check()] == ["warning", "error"]


def test_nothing_is_left_of_the_comparison(store: PostgresStore, admin: Admin) -> None:
    """The check writes nothing that lasts."""
    count = "SELECT count(*) FROM pg_class WHERE relname IN ('properties', 'workspaces', 'keys', 'tokens', 'events')"
    assert store.check() == []
    assert admin.execute(count).fetchone() == (5,)


def test_a_backup_that_was_restored(server: Server, store: PostgresStore, database: str) -> None:
    """Its tables are the same."""
    dump = subprocess.run(
        command("pg_dump", "--schema=doorkey", "-d", server.url(database, "app")), capture_output=True, check=True
    )
    with superuser(server) as admin:
        admin.execute("CREATE DATABASE restored OWNER app")
        try:
            subprocess.run(
                command("psql", "-q", "-v", "ON_ERROR_STOP=1", "-d", server.url("restored", "app")),
                input=dump.stdout,
                capture_output=True,
                check=True,
            )
            with closing(PostgresStore(server.url("restored", "app"))) as restored:
                assert restored.check() == []
                assert restored.keys("ws_1") == store.keys("ws_1")
        finally:
            admin.execute("DROP DATABASE restored WITH (FORCE)")


def test_a_row_that_cannot_be_understood(store: PostgresStore, admin: Admin) -> None:
    """It is named, with its key."""
    admin.execute("UPDATE keys SET permissions = 'a b:' WHERE id = 'key_2'")
    (found,) = store.check()
    assert found.severity == "error"
    assert "the record of token tok00002 cannot be understood" in found.what and "(key key_2)" in found.what


def test_a_server_that_cannot_be_asked(server: Server, store: PostgresStore, admin: Admin) -> None:
    """Is no finding, but unavailable, within the timeout."""
    with admin.transaction():
        admin.execute("LOCK TABLE pg_class")
        with pytest.raises(StoreUnavailable):
            store.check()
    assert store.check() == []
