"""What the URL of a database says, and for PostgreSQL the environment."""

from __future__ import annotations

import configparser
import os
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode

from aioupsert.cli.errors import LoadError


def check_url(url: str) -> str:
    """
    Return the URL if it is one of a supported database.

    Raises:
        ValueError: It is not. The message says what a URL looks like and never contains
            the password.
    """
    scheme, separator, rest = url.partition("://")
    if scheme == "sqlite" and separator:
        if rest in {"", "/", ":memory:", "/:memory:"}:
            msg = "an in-memory database would not outlive the command: name a file"
            raise ValueError(msg)
        if not rest.startswith("/"):
            msg = f"write three slashes before a file: sqlite:///{rest}"
            raise ValueError(msg)
        sqlite_timeout(url)
    elif scheme.partition("+")[0] in _SCHEMES and separator:
        engine, plus, driver = scheme.partition("+")
        if plus:
            msg = f"write {engine}:// without +{driver}: the driver is not part of it"
            raise ValueError(msg)
    else:
        msg = (
            "must be sqlite:///relative.db, sqlite:////absolute.db or"
            " postgresql://user:password@host/database"
        )
        raise ValueError(msg)
    return url


_SCHEMES: Final = ("postgresql", "postgres", "sqlite")


def is_postgresql(url: str) -> bool:
    """Return whether a URL that passed `check_url` names a PostgreSQL database."""
    return not url.startswith("sqlite:")


# --- SQLite ---------------------------------------------------------------------------


# Seconds to wait for another writer.
_BUSY_TIMEOUT = 5.0


def sqlite_timeout(url: str) -> float:
    """
    Return the seconds to wait for another writer, by the parameter of a URL.

    Raises:
        ValueError: The URL has another parameter, or the value is not a number.
    """
    _, _, query = url.partition("?")
    timeout = _BUSY_TIMEOUT
    for name, value in parse_qsl(query, keep_blank_values=True):
        try:
            if name != "timeout":
                raise ValueError  # noqa: TRY301  # one message for both
            timeout = float(value)
        except ValueError as exc:
            msg = (
                f"{name}={value} is not a parameter of SQLite here: write"
                " ?timeout=SECONDS, or %3F for a question mark in the name of the file"
            )
            raise ValueError(msg) from exc
    return timeout


def sqlite_path(url: str) -> Path:
    """Return the file that a URL of SQLite names."""
    path, _, _ = url.removeprefix("sqlite:///").partition("?")
    return Path(path.replace("%3F", "?").replace("%3f", "?"))


# --- PostgreSQL -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PostgresqlUrl:
    """
    A URL of PostgreSQL, with its parameters and those of the environment apart.

    Attributes:
        base: The URL without its parameters.
        parameters: The parameters of the URL and of its service, by name.
        variables: What the environment says beyond that: the variable, by the name of
            its parameter.
    """

    base: str
    parameters: Mapping[str, str]
    variables: Mapping[str, str]

    def asyncpg_url(self) -> str:
        """Return the URL for asyncpg, with what it would not read by itself."""
        parameters = {**self.parameters}
        for name in ("connect_timeout", "client_encoding"):
            parameters.pop(name, None)
        fallback = parameters.pop("fallback_application_name", None)
        for name, variable in self.variables.items():
            if name in _SETTINGS:
                parameters.setdefault(name, os.environ[variable])
        if fallback is not None:
            parameters.setdefault("application_name", fallback)
        return _join(self.base, parameters)

    def connect_timeout(self) -> float | None:
        """
        Return the seconds that connecting may take, or None if that is not said.

        Raises:
            ValueError: It is not a number.
        """
        given = self.parameters.get("connect_timeout")
        if given is None and "connect_timeout" in self.variables:
            given = os.environ[self.variables["connect_timeout"]]
        return None if given is None else float(given)

    def needs_libpq(self) -> list[str]:
        """Return the parameters and variables that only psycopg, with libpq, follows."""
        by_url = [name for name in self.parameters if name in _LIBPQ_ONLY]
        by_variable = [
            variable for name, variable in self.variables.items() if name in _LIBPQ_ONLY
        ]
        return by_url + by_variable

    def libpq_url(self, known: Container[str]) -> tuple[str, dict[str, str]]:
        """
        Return the URL for libpq, and the settings of the server that it does not take.

        Args:
            known: The names of libpq's parameters.
        """
        parameters = {n: v for n, v in self.parameters.items() if n in known}
        settings = {n: v for n, v in self.parameters.items() if n not in known}
        # Text is Python's, whatever the encoding of files.
        parameters["client_encoding"] = "utf-8"
        return _join(self.base, parameters), settings


def read_postgresql_url(url: str) -> PostgresqlUrl:
    """
    Read a URL and the environment, as libpq does.

    Raises:
        LoadError: The service that is named is not defined.
    """
    base, _, query = url.partition("?")
    scheme, _, rest = base.partition("://")
    # An empty name of a database would not be replaced by another.
    base = f"{scheme}://{rest.removesuffix('/') if rest.count('/') == 1 else rest}"
    parameters: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        name, _, value = part.partition("=")
        parameters[unquote(name)] = unquote(value)  # libpq decodes no plus sign
    service = parameters.pop("service", None) or os.environ.get("PGSERVICE")
    if service:
        said = _said_by(rest)
        defined = {n: v for n, v in _service(service).items() if n not in said}
        parameters = {**defined, **parameters}
    variables = {
        name: variable
        for name, variable in _VARIABLES.items()
        if variable in os.environ
    }
    return PostgresqlUrl(base, parameters, variables)


def _said_by(base: str) -> frozenset[str]:
    """Return the names of the parameters that stand before those of a URL."""
    place, _, name = base.partition("/")
    user, _, host = place.rpartition("@")
    said = {"user": user, "password": ":" in user, "host": host, "dbname": name}
    return frozenset(name for name, value in said.items() if value)


def _join(base: str, parameters: Mapping[str, str]) -> str:
    query = urlencode(parameters, quote_via=quote, safe="")
    return f"{base}?{query}" if query else base


def _service(name: str) -> dict[str, str]:
    """Return the parameters of a service."""
    user = os.environ.get("PGSERVICEFILE") or Path.home() / ".pg_service.conf"
    files = [Path(user)]
    if "PGSYSCONFDIR" in os.environ:
        files.append(Path(os.environ["PGSYSCONFDIR"], "pg_service.conf"))
    for file in files:
        services = configparser.RawConfigParser(
            delimiters="=", comment_prefixes="#", default_section=""
        )
        try:
            services.read(file, encoding="utf-8")
        except (configparser.Error, UnicodeError) as exc:
            msg = f"cannot read the services of {file}"
            raise LoadError(msg) from exc
        if services.has_section(name):
            return dict(services[name])
    msg = f"no service {name!r} is defined in {' or '.join(map(str, files))}"
    raise LoadError(msg)


# Settings of the server, which asyncpg takes as parameters but not from the environment.
_SETTINGS: Final = ("options", "application_name", "timezone", "datestyle", "geqo")
# What asyncpg either refuses or, which is worse, ignores.
_LIBPQ_ONLY: Final = frozenset(
    {
        "channel_binding",
        "gssdelegation",
        "gssencmode",
        "hostaddr",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "load_balance_hosts",
        "max_protocol_version",
        "min_protocol_version",
        "require_auth",
        "requirepeer",
        "sslcertmode",
        "sslcompression",
        "sslcrldir",
        "sslsni",
        "tcp_user_timeout",
    }
)
# The variables of libpq that asyncpg does not read, by the name of the parameter.
_VARIABLES: Final = {
    "application_name": "PGAPPNAME",
    "channel_binding": "PGCHANNELBINDING",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "datestyle": "PGDATESTYLE",
    "geqo": "PGGEQO",
    "gssdelegation": "PGGSSDELEGATION",
    "gssencmode": "PGGSSENCMODE",
    "hostaddr": "PGHOSTADDR",
    "load_balance_hosts": "PGLOADBALANCEHOSTS",
    "max_protocol_version": "PGMAXPROTOCOLVERSION",
    "min_protocol_version": "PGMINPROTOCOLVERSION",
    "options": "PGOPTIONS",
    "require_auth": "PGREQUIREAUTH",
    "requirepeer": "PGREQUIREPEER",
    "sslcertmode": "PGSSLCERTMODE",
    "sslcompression": "PGSSLCOMPRESSION",
    "sslcrldir": "PGSSLCRLDIR",
    "sslsni": "PGSSLSNI",
    "timezone": "PGTZ",
}
