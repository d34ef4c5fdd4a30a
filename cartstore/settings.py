"""Owns the settings: one frozen Struct, read once. The only reader of the environment.

Every field is read from `CARTSTORE_<NAME>`; the names are a contract. Names that are none and values that do
not parse, are out of range or contradict each other raise SettingsRefused, a ConfigurationError that tells
all of them at once (problems.py). To add a setting: a field with its type and bounds, and a docstring; a
rule that its type cannot express goes into `_contradictions`.
"""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import os
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, Final, Literal

import msgspec

from cartstore import limits
from cartstore.errors import ConfigurationError
from cartstore.origins import browser_faults, items_of, origin_of, read_origin
from cartstore.problems import (
    ENVIRONMENT_PREFIX,
    Problem,
    SettingsRefused,
    types_of,
    unknown_variable,
    variable_of,
    wrong_values,
)
from cartstore.urls import (
    QUEUE_DATABASE,
    database_number,
    database_url_fault,
    engine_url_fault,
    is_same_database,
)

Count = Annotated[int, msgspec.Meta(ge=1, le=limits.SETTING_MAX)]
Size = Annotated[int, msgspec.Meta(ge=0, le=limits.SETTING_MAX)]
Days = Annotated[int, msgspec.Meta(ge=0, le=limits.SETTING_MAX)]
Seconds = Annotated[int, msgspec.Meta(ge=0, le=limits.SETTING_MAX)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
Switch = Literal["on", "off"]

JWT_SECRET_LENGTH_MIN: Final = 32

_NOT_BUILT: Final = "it is not built yet and does nothing"
SwitchNotBuilt = Annotated[Literal["off"], msgspec.Meta(description=f"only off, because {_NOT_BUILT}")]
TextNotBuilt = Annotated[str, msgspec.Meta(max_length=0, description=f"no value, because {_NOT_BUILT}")]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of one deployment. Defaults are those of a development machine."""

    redis_url: str = ""
    """Engine: redis://, rediss:// or unix:// URL. Empty: the embedded one."""
    database_url: str = ""
    """PostgreSQL: postgresql:// URL. Empty: the embedded one."""
    queue_url: str = ""
    """RQ's Redis, on another database than the engine's. Empty: the engine's server, database 1."""
    namespace: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^[a-z0-9][a-z0-9-]{0,31}$",
            description="1 to 32 small letters, digits and hyphens, no hyphen first",
        ),
    ] = "main"
    """First part of every key's hash tag."""
    partitions: Annotated[
        int, msgspec.Meta(ge=1, le=1, description="only 1: shares cannot move between partitions yet")
    ] = 1
    """Number of partitions. Anything but 1 is refused until shares can move between partitions."""
    checkout_ack: Literal["", "engine", "archived"] = ""
    """When a checkout is acknowledged: on the engine's persistence, or after the PostgreSQL commit.
    Empty: `engine` when the engine fsyncs always and has no replica, else `archived`."""
    ack_timeout_ms: Count = 5_000
    """How long `archived` waits for the commit before it answers OUTCOME_UNKNOWN."""
    currency: Annotated[
        str, msgspec.Meta(pattern=r"^[A-Z]{3}$", description="three capital letters, as in EUR")
    ] = "USD"
    """Of catalogs that name none (ISO 4217)."""
    import_blank_tracker: Literal["untracked", "deny"] = "untracked"
    """What a blank inventory tracker in a Shopify file means for a SKU that is new: sold without limit, as
    Shopify does, or by the units that the file says."""

    hold_ttl_guest_seconds: Count = 600
    """How long a guest's hold lasts after the last mutation."""
    hold_ttl_member_seconds: Count = 1_800
    """How long a signed-in owner's hold lasts after the last mutation."""
    hold_cap_seconds: Count = 7_200
    """Counted from an owner's first hold of a SKU, over all lines: mutations extend holds no further."""
    hold_rest_seconds: Seconds = 10
    """How long an owner's units of a SKU rest after the cap: only a checkout holds them. A first hold is
    forgotten once its owner has held nothing of the SKU for so long."""
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
    rate_limit: SwitchNotBuilt = "off"
    """Of rate limiting per caller. Not built yet: takes only `off`."""
    trusted_proxies: str = ""
    """Comma-separated networks (`10.0.0.0/8, fd00::/8`) of proxies in front: the last `X-Forwarded-For` entry
    that none of them has is the client's address, and their own connections are not capped per address.
    Empty: no forwarded address is believed."""
    max_connections: Count = 10_000
    """Connections of one API process, lowered to its open file limit less 128. At the cap the connection
    that has been waiting for a whole request the longest is closed for a new one."""
    max_connections_per_address: Count = 1_000
    """Of them those of one client address (IPv6: of one /64). Loopback and trusted proxies are exempt."""

    jwt_secret: str = ""
    """HS256 secret of access tokens, 32 characters or more. Empty: generated per data-dir."""
    jwt_jwks: TextNotBuilt = ""
    """File or URL of a JWKS for RS256 and ES256. Not built yet: takes no value."""
    jwt_issuer: str = ""
    """Required `iss`. Empty: not checked."""
    jwt_audience: str = ""
    """Required `aud`. Empty: not checked."""
    guest_cookie: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^[A-Za-z0-9_-]{1,64}$",
            description="1 to 64 letters, digits, hyphens and underscores",
        ),
    ] = "cart"
    """Name of the guest cookie; `__Host-` is put before it in production."""
    public_url: str = ""
    """URL under which browsers reach this service, for example `https://shop.example`. Guests' cookies are
    taken from pages of this origin and of CORS_ORIGINS, links begin with it. Empty: cookies are taken from
    pages of the host that the request names. Required in production unless GUEST_CARTS is off."""
    cors_origins: str = ""
    """Comma-separated origins whose pages may call from a browser, with cookies, for example
    `https://www.shop.example`. `*` is refused: any page could act for its visitor. Empty: none."""
    cors_headers: str = ""
    """Comma-separated names of further request headers that pages of CORS_ORIGINS may send."""

    guest_carts: Switch = "on"
    """Whether callers without an account have carts."""
    merge: SwitchNotBuilt = "off"
    """Of merging a guest cart at sign-in. Not built yet: takes only `off`."""
    sharing: SwitchNotBuilt = "off"
    """Of sharing carts by link. Not built yet: takes only `off`."""
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
    retention_events_days: Days = 90
    """How long the record keeps archived events: 0 for ever, else at least 7."""
    retention_snapshots_days: Days = 90
    """How long the record keeps snapshots of carts that have ended, from their last change. 0: for ever."""
    retention_unpaid_days: Days = 30
    """How long the record keeps address, contact and metadata of orders that were released and never paid,
    from their checkout. Money that comes for them later is to be refunded. 0: for ever."""
    worker_port: Port = 0
    """Port on which a worker answers `/metrics` and `/health`. 0: it does not."""
    worker_host: str = "127.0.0.1"
    """Address of that port. The worker asks nobody who they are: keep it inside."""
    drain_seconds: Seconds = 5
    """How long an API process that was told to stop goes on answering, with `/health/serving` at 503, so that
    load balancers send requests elsewhere. `up` stops all of its processes at once and does not wait."""
    env: Literal["development", "production"] = "development"
    """`production` demands explicit secrets and Secure cookies and refuses the simulated gateway."""

    failpoint: str = ""
    """For tests: the name of a point at which the process kills itself. Refused in production."""

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in self.__struct_fields__}
        _, problems = wrong_values(given, _types(), from_text=False)
        # What does not have its type cannot be compared with anything.
        problems = problems or list(_contradictions(self))
        if problems:
            raise SettingsRefused(problems)

    @property
    def is_production(self) -> bool:
        return self.env == "production"

    @property
    def public_origin(self) -> str | None:
        """The origin of `public_url`, as browsers send it."""
        return origin_of(self.public_url) if self.public_url else None

    @property
    def allowed_origins(self) -> tuple[str, ...]:
        """The origins of `cors_origins`, as browsers send them."""
        return tuple(origin for text in items_of(self.cors_origins) if (origin := read_origin(text)))


def _contradictions(settings: Settings) -> Iterator[Problem]:
    """What the types of the fields cannot express. Each setting by itself has its type."""
    yield from _url_problems(settings)
    try:
        networks_of(settings.trusted_proxies)
    except ConfigurationError as error:
        yield Problem(error.message, ("trusted_proxies",))
    for name, fault in browser_faults(settings.public_url, settings.cors_origins, settings.cors_headers):
        yield Problem(f"{variable_of(name)} {fault}.", (name,))
    if settings.is_production and settings.failpoint:
        yield Problem("CARTSTORE_FAILPOINT is for tests; production refuses it.", ("env", "failpoint"))
    if 0 < settings.retention_events_days < limits.RETENTION_EVENTS_DAYS_MIN:
        yield Problem(
            "CARTSTORE_RETENTION_EVENTS_DAYS must be 0 (for ever) or at least "
            f"{limits.RETENTION_EVENTS_DAYS_MIN}: other systems read the events.",
            ("retention_events_days",),
        )
    if settings.jwt_secret and len(settings.jwt_secret) < JWT_SECRET_LENGTH_MIN:
        yield Problem(
            f"CARTSTORE_JWT_SECRET must have at least {JWT_SECRET_LENGTH_MIN} characters.", ("jwt_secret",)
        )
    if settings.is_production:
        # Without guests no caller is known by a cookie, and nobody needs the origin that it belongs to.
        browsers = ("public_url",) if settings.guest_carts == "on" else ()
        for name in ("redis_url", "database_url", "jwt_secret", *browsers):
            if not getattr(settings, name):
                yield Problem(f"{variable_of(name)} is not set, and production needs it.", ("env", name))


def _url_problems(settings: Settings) -> Iterator[Problem]:
    faults = {
        "redis_url": settings.redis_url and engine_url_fault(settings.redis_url),
        "queue_url": settings.queue_url and engine_url_fault(settings.queue_url),
        "database_url": settings.database_url and database_url_fault(settings.database_url),
    }
    for name, fault in faults.items():
        if fault:
            yield Problem(f"{variable_of(name)} {fault}.", (name,))
    if not settings.redis_url or faults["redis_url"] or faults["queue_url"]:
        return
    if settings.queue_url and is_same_database(settings.queue_url, settings.redis_url):
        yield Problem(
            "CARTSTORE_QUEUE_URL names the engine's own database, where RQ's keys would be among the "
            "carts. Name another one, for instance by another number at its end.",
            ("redis_url", "queue_url"),
        )
    elif not settings.queue_url and database_number(settings.redis_url) == QUEUE_DATABASE:
        yield Problem(
            f"CARTSTORE_REDIS_URL names database {QUEUE_DATABASE}, which RQ's queue has on the engine's "
            "server. Name another database, or set CARTSTORE_QUEUE_URL as well.",
            ("redis_url", "queue_url"),
        )


@functools.cache
def _types() -> dict[str, Any]:
    return types_of(Settings)


def networks_of(trusted_proxies: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """The networks of the setting TRUSTED_PROXIES. Raises ConfigurationError when an entry is none."""
    networks = []
    for part in trusted_proxies.split(","):
        text = part.strip()
        if not text:
            continue
        try:
            networks.append(ip_network(text))
        except ValueError as error:
            raise ConfigurationError(
                f"{ENVIRONMENT_PREFIX}TRUSTED_PROXIES: {text!r} is not a network, as 10.0.0.0/8 or ::1 is."
            ) from error
    return tuple(networks)


def load_settings(environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Read the environment (or `environ`), then apply `overrides` that are not None.

    Raises SettingsRefused, which tells every unknown `CARTSTORE_` name, every value that a field does not
    take and every contradiction.
    """
    source = os.environ if environ is None else environ
    problems: list[Problem] = []
    values: dict[str, Any] = {}
    for variable, text in source.items():
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        if name in _types() and variable == variable_of(name):
            values[name] = text
        else:
            problems.append(unknown_variable(variable, _types()))
    values.update({name: value for name, value in overrides.items() if value is not None})
    values, wrong = wrong_values(values, _types(), from_text=True)
    problems += wrong
    try:
        settings = Settings(**values)
    except SettingsRefused as refused:
        # A wrong value is not there to be compared; what is said of the default in its place is nobody's.
        named = {name for problem in wrong for name in problem.fields}
        problems += [problem for problem in refused.problems if named.isdisjoint(problem.fields)]
    if problems:
        raise SettingsRefused(problems)
    return settings


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
            "Read once, at start, from the environment. An unknown `CARTSTORE_` name is refused, and the",
            "nearest setting is named; all problems are told at once. This page is made from",
            "`cartstore/settings.py` by `make docs`.",
            "",
            "| name | default | meaning |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )
