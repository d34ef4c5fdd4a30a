"""Owns the settings: one frozen Struct, read once. The only reader of the environment.

Every field is read from `CARTSTORE_<NAME>`; the names are a contract. Values that do not parse, are
out of range or contradict each other raise ConfigurationError naming the variable and what it takes.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec

from cartstore import limits
from cartstore.errors import ConfigurationError

ENVIRONMENT_PREFIX = "CARTSTORE_"

DATABASE_SCHEMES = ("postgresql", "postgres", "postgresql+asyncpg")
_REDIS_SCHEMES = ("redis", "rediss", "unix")
PORT_MAX = 65_535

Count = Annotated[int, msgspec.Meta(ge=1, le=limits.SETTING_MAX)]
Size = Annotated[int, msgspec.Meta(ge=0, le=limits.SETTING_MAX)]
Switch = Literal["on", "off"]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of one deployment. Defaults are those of a development machine."""

    redis_url: str = ""
    """Engine: redis://, rediss:// or unix:// URL. Empty: the embedded one."""
    database_url: str = ""
    """PostgreSQL: postgresql:// URL. Empty: the embedded one."""
    queue_url: str = ""
    """RQ's Redis. Empty: the engine's server, database 1."""
    namespace: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")] = "main"
    """First part of every key's hash tag."""
    partitions: Count = 1
    """Number of partitions. Anything but 1 is refused until shares can move between partitions."""
    checkout_ack: Literal["", "engine", "archived"] = ""
    """When a checkout is acknowledged: on the engine's persistence, or after the PostgreSQL commit.
    Empty: `engine` when the engine fsyncs always and has no replica, else `archived`."""
    ack_timeout_ms: Count = 5_000
    """How long `archived` waits for the commit before it answers OUTCOME_UNKNOWN."""
    currency: Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}$")] = "USD"
    """Of catalogs that name none (ISO 4217)."""

    hold_ttl_guest_seconds: Count = 600
    """How long a guest's hold lasts after the last mutation."""
    hold_ttl_member_seconds: Count = 1_800
    """How long a signed-in owner's hold lasts after the last mutation."""
    hold_cap_seconds: Count = 7_200
    """Counted from a line's first hold: mutations extend its hold no further than this."""
    payment_window_seconds: Count = 900
    """From checkout to release of an unpaid order."""
    guest_cart_ttl_days: Count = 7
    """Inactivity after which a guest's cart and token are dead."""
    member_cart_ttl_days: Count = 30
    """Inactivity after which a signed-in owner's cart expires."""
    abandoned_after_hours: Count = 168
    """Inactivity after which a cart counts as abandoned."""

    max_quantity_per_line: Count = 99
    """Units in one line."""
    max_lines_per_cart: Count = 100
    """Lines in one cart."""
    max_items_per_cart: Count = 1_000
    """Units over all lines of one cart."""
    max_held_per_owner: Count = 500
    """Units that one owner may hold in all, orders being paid included."""
    guest_share_of_stock: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    """Share of a SKU's on_hand that all guests together may hold."""
    max_body_bytes: Count = 65_536
    """Largest request body; import has its own bound."""
    rate_limit: Switch = "on"
    """Of rate limiting per caller. Not built yet: changes nothing."""
    trusted_proxies: str = ""
    """Comma-separated networks whose forwarded addresses will be believed. Not built yet: none is, whatever
    it says."""

    jwt_secret: str = ""
    """HS256 secret of access tokens, 32 characters or more. Empty: generated per data-dir."""
    jwt_jwks: str = ""
    """File or URL of a JWKS for RS256 and ES256. Not built yet: the API refuses to start with one."""
    jwt_issuer: str = ""
    """Required `iss`. Empty: not checked."""
    jwt_audience: str = ""
    """Required `aud`. Empty: not checked."""
    guest_cookie: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "cart"
    """Name of the guest cookie; `__Host-` is put before it in production."""
    cors_origins: str = ""
    """Comma-separated origins that browsers may call from. Empty: none."""

    guest_carts: Switch = "on"
    """Whether callers without an account have carts."""
    merge: Switch = "on"
    """Of merging a guest cart at sign-in. Not built yet: changes nothing."""
    sharing: Switch = "on"
    """Of sharing carts by link. Not built yet: changes nothing."""
    reservations: Switch = "on"
    """Off: adding holds no stock; stock is held at checkout only."""
    stock_counts_public: Switch = "on"
    """Whether anyone may read exact stock numbers."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What API processes and workers log at least. Access lines are of level `info`."""
    access_log: Literal["off", "sampled", "all"] = "sampled"
    """`sampled`: of requests that are alike (method, route, status, code) the first ten of each half second
    are written line by line, and a line says how many more there were. `all`: requests that were not
    refused are all written; refusals are still sampled, so that a flood of them fills no disk."""
    log_file_mb: Count = 64
    """Size (MiB) at which `up` puts a log aside as `<name>.log.1`; two files of it are kept per program."""
    disk_reserve_mb: Size = 256
    """Free space (MiB) of the data dir's disk below which adds and checkouts are refused; below a quarter
    of it nothing is written. 0: never looked at. Only with an embedded engine or database."""
    engine_memory_mb: Size = 0
    """`maxmemory` (MiB) of the embedded engine. 0: 40% of the smaller of the machine's memory and the control
    group's limit; the fork of a log rewrite needs the rest."""

    snapshot_seconds: Count = 5
    """Interval of the cart snapshot job."""
    sweep_seconds: Count = 1
    """Interval of the hold and payment expiry jobs."""
    reconcile_seconds: Count = 10
    """Interval of the reconcile job."""
    env: Literal["development", "production"] = "development"
    """`production` demands explicit secrets and Secure cookies and refuses the simulated gateway."""

    failpoint: str = ""
    """For tests: the name of a point at which the process kills itself. Refused in production."""

    def __post_init__(self) -> None:
        _check_url("redis_url", self.redis_url, _REDIS_SCHEMES)
        _check_url("queue_url", self.queue_url, _REDIS_SCHEMES)
        _check_url("database_url", self.database_url, DATABASE_SCHEMES)
        if self.is_production and self.failpoint:
            raise ConfigurationError("CARTSTORE_FAILPOINT is for tests; production refuses it.")
        if self.partitions != 1:
            raise ConfigurationError(
                f"CARTSTORE_PARTITIONS is {self.partitions}, but only 1 is supported: shares cannot move "
                "between partitions yet."
            )
        if self.jwt_secret and len(self.jwt_secret) < 32:
            raise ConfigurationError("CARTSTORE_JWT_SECRET must have at least 32 characters.")
        if self.env == "production":
            missing = [
                ENVIRONMENT_PREFIX + name.upper()
                for name in ("redis_url", "database_url", "jwt_secret")
                if not getattr(self, name)
            ]
            if missing:
                raise ConfigurationError(f"CARTSTORE_ENV is production; set {', '.join(missing)} as well.")

    @property
    def is_production(self) -> bool:
        return self.env == "production"


def _check_url(name: str, url: str, schemes: Sequence[str]) -> None:
    """Raise ConfigurationError for what is no URL of that kind. Its text never quotes the URL: a password
    with a special character is what a wrong one most often consists of."""
    if not url:
        return
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in schemes:
        raise ConfigurationError(f"{ENVIRONMENT_PREFIX}{name.upper()} must be a {schemes[0]}:// URL.")
    # The host part may name several, as libpq takes them.
    hosts = rest.partition("/")[0].partition("?")[0].rpartition("@")[2]
    for host in hosts.split(","):
        port = host.rpartition("]")[2].partition(":")[2]
        if port and not (port.isdecimal() and int(port) <= PORT_MAX):
            raise ConfigurationError(
                f"{ENVIRONMENT_PREFIX}{name.upper()} has a port that is not a number from 0 to {PORT_MAX}. "
                "Special characters in a password must be percent-encoded."
            )


def load_settings(environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Read the environment (or `environ`), then apply `overrides` that are not None.

    Raises ConfigurationError for an unknown `CARTSTORE_` name or a value that a field does not take.
    """
    source = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    for name, text in source.items():
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        field = name.removeprefix(ENVIRONMENT_PREFIX).lower()
        if field not in Settings.__struct_fields__:
            raise ConfigurationError(f"{name} is not a setting of cartstore.")
        values[field] = text
    values.update({name: value for name, value in overrides.items() if value is not None})
    try:
        return msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$.")
        name = ENVIRONMENT_PREFIX + path.rstrip("`").upper() if path else "The settings"
        raise ConfigurationError(f"{name}: {reason}.") from error


def settings_page() -> str:
    """The settings as a Markdown page: docs/settings.md, made by `make docs`, held to the code by a test."""
    tree = ast.parse(inspect.getsource(Settings)).body[0]
    assert isinstance(tree, ast.ClassDef)
    texts: dict[str, str] = {}
    for statement, following in itertools.pairwise(tree.body):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            texts[statement.target.id] = " ".join(str(following.value.value).split())
    rows = [
        f"| `{ENVIRONMENT_PREFIX}{field.name.upper()}` | `{field.default!r}` | {texts[field.name]} |"
        for field in msgspec.structs.fields(Settings)
    ]
    return "\n".join(
        [
            "# Settings",
            "",
            "Read once, at start, from the environment; an unknown `CARTSTORE_` name is refused. This page",
            "is made from `cartstore/settings.py` by `make docs`.",
            "",
            "| name | default | meaning |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )
