"""Settings: names, defaults, bounds, and what is said when a value is not taken."""

from __future__ import annotations

import msgspec
import pytest

from cartstore import limits
from cartstore.errors import ConfigurationError
from cartstore.settings import ENVIRONMENT_PREFIX, Settings, load_settings

SECRET = "s" * 32

NUMBERS = [
    name
    for name, default in zip(Settings.__struct_fields__, Settings.__struct_defaults__, strict=True)
    if isinstance(default, int) and not isinstance(default, bool) and name != "partitions"
]
ZERO_IS_FOR_EVER = tuple(name for name in NUMBERS if name.startswith("retention_"))
OFF_AT_ZERO = (
    "disk_reserve_mb",
    "engine_memory_mb",
    "worker_port",
    "drain_seconds",
    "hold_rest_seconds",
    *ZERO_IS_FOR_EVER,
)
"""Numbers for which 0 has a meaning of its own."""

SWITCHES = ("guest_carts", "reservations", "stock_counts_public")
SWITCHES_NOT_BUILT = ("rate_limit", "merge", "sharing")


def test_load_gives_the_documented_defaults_when_nothing_is_set() -> None:
    settings = load_settings({})

    assert settings == Settings()
    assert (settings.namespace, settings.partitions, settings.currency) == ("main", 1, "USD")
    assert (settings.hold_ttl_guest_seconds, settings.hold_ttl_member_seconds) == (600, 1_800)
    assert (settings.hold_cap_seconds, settings.payment_window_seconds) == (7_200, 900)
    assert (settings.guest_cart_ttl_days, settings.member_cart_ttl_days) == (7, 30)
    assert settings.abandoned_after_hours == 168
    assert (settings.max_quantity_per_line, settings.max_lines_per_cart) == (99, 100)
    assert (settings.max_items_per_cart, settings.max_held_per_owner) == (1_000, 500)
    assert (settings.guest_share_of_stock, settings.max_body_bytes) == (1.0, 65_536)
    assert (settings.snapshot_seconds, settings.sweep_seconds, settings.reconcile_seconds) == (5, 1, 10)
    assert {getattr(settings, name) for name in SWITCHES} == {"on"}
    assert {getattr(settings, name) for name in SWITCHES_NOT_BUILT} == {"off"}
    kept = (settings.retention_events_days, settings.retention_snapshots_days)
    assert (*kept, settings.retention_unpaid_days) == (90, 90, 30)
    assert settings.guest_cookie == "cart"
    assert not settings.is_production


def test_load_reads_every_setting_when_its_variable_is_set() -> None:
    settings = load_settings(
        {
            "CARTSTORE_REDIS_URL": "redis://engine:6379/0",
            "CARTSTORE_HOLD_TTL_GUEST_SECONDS": "5",
            "CARTSTORE_GUEST_SHARE_OF_STOCK": "0.25",
            "CARTSTORE_CHECKOUT_ACK": "archived",
            "CARTSTORE_RESERVATIONS": "off",
            "CARTSTORE_CURRENCY": "EUR",
            "PATH": "/bin",
            "CARTSTOREX": "not ours",
        }
    )

    assert settings.redis_url == "redis://engine:6379/0"
    assert settings.hold_ttl_guest_seconds == 5
    assert settings.guest_share_of_stock == 0.25
    assert (settings.checkout_ack, settings.reservations, settings.currency) == ("archived", "off", "EUR")


def test_load_reads_the_process_environment_when_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARTSTORE_NAMESPACE", "shop-2")

    assert load_settings().namespace == "shop-2"


def test_load_prefers_overrides_when_they_are_not_none() -> None:
    settings = load_settings(
        {"CARTSTORE_NAMESPACE": "one", "CARTSTORE_CURRENCY": "EUR"}, namespace="two", currency=None
    )

    assert (settings.namespace, settings.currency) == ("two", "EUR")


def test_load_refuses_when_a_name_is_unknown() -> None:
    with pytest.raises(ConfigurationError, match="CARTSTORE_HOLD_TTL is not a setting"):
        load_settings({"CARTSTORE_HOLD_TTL": "5"})


@pytest.mark.parametrize("name", [name for name in NUMBERS if name != "worker_port"])
def test_load_takes_the_largest_value_when_it_is_a_limit(name: str) -> None:
    settings = load_settings({ENVIRONMENT_PREFIX + name.upper(): str(limits.SETTING_MAX)})

    assert getattr(settings, name) == limits.SETTING_MAX


@pytest.mark.parametrize("name", ZERO_IS_FOR_EVER)
def test_load_takes_zero_when_the_setting_is_a_retention(name: str) -> None:
    assert getattr(load_settings({ENVIRONMENT_PREFIX + name.upper(): "0"}), name) == 0


def test_load_refuses_when_events_would_be_kept_for_less_than_a_week() -> None:
    assert load_settings({"CARTSTORE_RETENTION_EVENTS_DAYS": "7"}).retention_events_days == 7
    with pytest.raises(ConfigurationError, match="CARTSTORE_RETENTION_EVENTS_DAYS"):
        load_settings({"CARTSTORE_RETENTION_EVENTS_DAYS": "6"})


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("text", ["0", "-1", str(limits.SETTING_MAX + 1), "many", "1.5", "", "9" * 400])
def test_load_names_the_variable_when_a_number_is_not_taken(name: str, text: str) -> None:
    variable = ENVIRONMENT_PREFIX + name.upper()
    if name in OFF_AT_ZERO and text == "0":
        text = "-2"

    with pytest.raises(ConfigurationError, match=variable):
        load_settings({variable: text})


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("CARTSTORE_NAMESPACE", ""),
        ("CARTSTORE_NAMESPACE", "Main"),
        ("CARTSTORE_NAMESPACE", "a{b}"),
        ("CARTSTORE_NAMESPACE", "a" * 33),
        ("CARTSTORE_CURRENCY", "usd"),
        ("CARTSTORE_CURRENCY", "EURO"),
        ("CARTSTORE_CHECKOUT_ACK", "never"),
        ("CARTSTORE_GUEST_SHARE_OF_STOCK", "1.01"),
        ("CARTSTORE_GUEST_SHARE_OF_STOCK", "-0.1"),
        ("CARTSTORE_GUEST_SHARE_OF_STOCK", "nan"),
        ("CARTSTORE_GUEST_COOKIE", "a b"),
        ("CARTSTORE_GUEST_COOKIE", ""),
        ("CARTSTORE_MERGE", "yes"),
        ("CARTSTORE_RATE_LIMIT", "ON"),
        ("CARTSTORE_ENV", "staging"),
    ],
)
def test_load_names_the_variable_when_a_text_is_not_taken(variable: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=variable):
        load_settings({variable: text})


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("CARTSTORE_REDIS_URL", "localhost:6379"),
        ("CARTSTORE_REDIS_URL", "http://u:p4ss@engine"),
        ("CARTSTORE_REDIS_URL", "redis://:p4/ss@engine:6379/0"),
        ("CARTSTORE_QUEUE_URL", "redis://u:p4ss@engine:queue/0"),
        ("CARTSTORE_QUEUE_URL", "rediss://engine:65536"),
        ("CARTSTORE_REDIS_URL", "redis://:p4ss@engine:0/0"),
        ("CARTSTORE_DATABASE_URL", "mysql://u:p4ss@database/shop"),
        ("CARTSTORE_DATABASE_URL", "postgresql:shop"),
        ("CARTSTORE_DATABASE_URL", "postgresql://u:p4/ss@database/shop"),
        ("CARTSTORE_DATABASE_URL", "postgresql://one:5432,two:five/shop"),
    ],
)
def test_load_names_the_variable_and_quotes_nothing_when_a_url_is_not_taken(variable: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=variable) as refusal:
        load_settings({variable: text})

    assert "p4" not in str(refusal.value)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("CARTSTORE_REDIS_URL", "redis://[::1]:6379/0"),
        ("CARTSTORE_REDIS_URL", "unix://user:p%2Fss@/run/engine.sock?db=2"),
        ("CARTSTORE_DATABASE_URL", "postgresql://u:p%40ss@one:5432,two,[::1]:5433/shop?sslmode=require"),
        ("CARTSTORE_DATABASE_URL", "postgresql+asyncpg://postgres@/shop?host=/run"),
    ],
)
def test_load_takes_a_url_of_every_form(variable: str, text: str) -> None:
    settings = load_settings({variable: text})

    assert getattr(settings, variable.removeprefix("CARTSTORE_").lower()) == text


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sentinel://:p4ss@one:26379,two:26379/shop/0", "Sentinels"),
        ("redis+sentinel://:p4ss@one:26379/shop", "Sentinels"),
        ("redis://:p4ss@one:6379,two:6379/0", "2 hosts"),
        ("redis+cluster://:p4ss@one:6379", "cluster"),
        ("valkeys://:p4ss@engine:6379/0", "write it as rediss://"),
        ("redis://:p4ss@engine:6379/zero", "database number"),
        ("redis://:p4ss@engine:6379/0/1", "database number"),
        ("redis://:p4ss@engine:6379/-1", "database number"),
        ("redis://:p4ss@engine:6379/?db=none", "database number"),
        ("redis://:p4ss@engine:6379/2?db=3", "two database numbers"),
        ("unix://:p4ss@/run/engine.sock?db=none", "database number"),
        ("redis://:p4ss@engine/0?socket_timeout=soon", "socket_timeout"),
        ("redis://:p4ss@engine/0?ssl_ca_certs=/ca.pem", "an option that is none: 'ssl_ca_certs'"),
    ],
)
def test_load_says_what_is_wrong_when_an_engine_url_leads_to_no_database_of_one_engine(
    url: str, says: str
) -> None:
    for variable in ("CARTSTORE_REDIS_URL", "CARTSTORE_QUEUE_URL"):
        with pytest.raises(ConfigurationError, match=f"^{variable} .*{says}") as refusal:
            load_settings({variable: url})

        assert "p4" not in str(refusal.value)


@pytest.mark.parametrize(
    ("engine", "queue"),
    [
        ("redis://engine:6379/0", "redis://:other@ENGINE/0"),
        ("redis://127.0.0.1:6379", "rediss://localhost:6379/0"),
        ("unix:///run/engine.sock?db=2", "unix://:p@/run/engine.sock?db=2"),
        ("redis://[::1]/3", "redis://[::1]:6379/?db=3"),
    ],
)
def test_load_refuses_when_the_queue_is_on_the_engines_own_database(engine: str, queue: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^CARTSTORE_QUEUE_URL names the engine's own"):
        load_settings({"CARTSTORE_REDIS_URL": engine, "CARTSTORE_QUEUE_URL": queue})


@pytest.mark.parametrize("url", ["redis://engine/1", "unix:///run/engine.sock?db=1"])
def test_load_refuses_when_the_engine_has_the_database_that_the_queue_gets_without_a_url(url: str) -> None:
    with pytest.raises(ConfigurationError, match="set CARTSTORE_QUEUE_URL as well"):
        load_settings({"CARTSTORE_REDIS_URL": url})

    assert load_settings({"CARTSTORE_REDIS_URL": url, "CARTSTORE_QUEUE_URL": "redis://engine/2"}).queue_url


@pytest.mark.parametrize(
    ("engine", "queue"),
    [
        ("redis://engine:6379/0", "redis://engine:6379/1"),
        ("redis://engine:6379/0", "redis://engine:6380/0"),
        ("redis://engine/0", "unix:///run/engine.sock"),
    ],
)
def test_load_takes_a_queue_when_it_is_on_another_database(engine: str, queue: str) -> None:
    settings = load_settings({"CARTSTORE_REDIS_URL": engine, "CARTSTORE_QUEUE_URL": queue})

    assert (settings.redis_url, settings.queue_url) == (engine, queue)


def test_load_tells_all_problems_when_there_are_several() -> None:
    with pytest.raises(ConfigurationError) as refusal:
        load_settings(
            {
                "CARTSTORE_CURENCY": "EUR",
                "CARTSTORE_ENV": "prod",
                "CARTSTORE_CHECKOUT_ACK": "never",
                "CARTSTORE_SWEEP_SECONDS": "0",
                "CARTSTORE_REDIS_URL": "redis://engine:port",
                "CARTSTORE_JWT_SECRET": "sh0rt",
            }
        )

    head, *lines = str(refusal.value).splitlines()
    assert head == "6 problems with the settings:"
    assert lines[:4] == [
        "- CARTSTORE_CURENCY is not a setting of cartstore. Did you mean CARTSTORE_CURRENCY?",
        "- CARTSTORE_ENV is 'prod'; it takes development or production.",
        "- CARTSTORE_CHECKOUT_ACK is 'never'; it takes nothing, archived or engine.",
        f"- CARTSTORE_SWEEP_SECONDS is '0'; it takes a whole number from 1 to {limits.SETTING_MAX}.",
    ]
    assert [line.split()[1] for line in lines[4:]] == ["CARTSTORE_REDIS_URL", "CARTSTORE_JWT_SECRET"]
    assert "sh0rt" not in str(refusal.value)


def test_load_says_nothing_of_the_default_when_the_value_that_was_given_is_wrong() -> None:
    with pytest.raises(ConfigurationError) as refusal:
        load_settings(
            {
                "CARTSTORE_ENV": "production",
                "CARTSTORE_REDIS_URL": "http://engine",
                "CARTSTORE_DATABASE_URL": "postgresql://db/shop",
                "CARTSTORE_JWT_SECRET": SECRET,
                "CARTSTORE_PUBLIC_URL": "https://shop.example",
            }
        )

    assert str(refusal.value) == "CARTSTORE_REDIS_URL must be a redis:// URL."

    with pytest.raises(ConfigurationError) as refusal:
        load_settings(
            {
                "CARTSTORE_ENV": "production",
                "CARTSTORE_DATABASE_URL": "postgresql://db/shop",
                "CARTSTORE_JWT_SECRET": SECRET,
                "CARTSTORE_PUBLIC_URL": "https://shop.example",
            },
            redis_url=6379,
        )

    assert str(refusal.value).startswith("CARTSTORE_REDIS_URL: Expected `str`")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("CARTSTORE_REDISURL", "CARTSTORE_REDIS_URL"),
        ("CARTSTORE_NAME_SPACE", "CARTSTORE_NAMESPACE"),
        ("CARTSTORE_HOLD_TTL", "CARTSTORE_HOLD_TTL_GUEST_SECONDS"),
        ("CARTSTORE_redis_url", "CARTSTORE_REDIS_URL"),
    ],
)
def test_load_names_the_nearest_setting_when_a_name_has_a_typo(name: str, meant: str) -> None:
    with pytest.raises(ConfigurationError, match=f"Did you mean {meant}?"):
        load_settings({name: "x"})


def test_load_names_no_setting_when_none_is_near() -> None:
    with pytest.raises(ConfigurationError) as refusal:
        load_settings({"CARTSTORE_FAVOURITE_COLOUR": "blue"})

    assert str(refusal.value) == "CARTSTORE_FAVOURITE_COLOUR is not a setting of cartstore."


@pytest.mark.parametrize("name", SWITCHES_NOT_BUILT)
def test_load_takes_only_off_when_the_setting_is_not_built_yet(name: str) -> None:
    variable = ENVIRONMENT_PREFIX + name.upper()

    assert getattr(load_settings({variable: "off"}), name) == "off"
    with pytest.raises(
        ConfigurationError, match=f"^{variable} is 'on'; it takes only off, because it is not"
    ):
        load_settings({variable: "on"})


def test_load_takes_no_jwks_when_it_is_not_built_yet() -> None:
    assert load_settings({"CARTSTORE_JWT_JWKS": ""}).jwt_jwks == ""
    with pytest.raises(ConfigurationError, match=r"^CARTSTORE_JWT_JWKS .* not built yet"):
        load_settings({"CARTSTORE_JWT_JWKS": "https://keys.example/"})


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_body_bytes", "65536"), ("currency", "usd"), ("merge", "on"), ("redis_url", None)],
)
def test_settings_made_by_a_program_are_checked_like_those_of_the_environment(
    name: str, value: object
) -> None:
    with pytest.raises(ConfigurationError, match=f"^CARTSTORE_{name.upper()}"):
        Settings(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("partitions", ["2", "16"])
def test_load_refuses_when_there_would_be_several_partitions(partitions: str) -> None:
    with pytest.raises(ConfigurationError, match="CARTSTORE_PARTITIONS"):
        load_settings({"CARTSTORE_PARTITIONS": partitions})


def test_load_refuses_when_the_secret_is_short() -> None:
    with pytest.raises(ConfigurationError, match="CARTSTORE_JWT_SECRET") as caught:
        load_settings({"CARTSTORE_JWT_SECRET": "short secret"})

    assert "short secret" not in str(caught.value)


def test_load_refuses_when_production_lacks_what_it_needs() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings({"CARTSTORE_ENV": "production", "CARTSTORE_DATABASE_URL": "postgresql://db/shop"})

    assert "CARTSTORE_REDIS_URL" in str(caught.value)
    assert "CARTSTORE_JWT_SECRET" in str(caught.value)
    assert "CARTSTORE_DATABASE_URL" not in str(caught.value)


def test_load_takes_production_when_everything_is_set() -> None:
    settings = load_settings(
        {
            "CARTSTORE_ENV": "production",
            "CARTSTORE_REDIS_URL": "rediss://engine",
            "CARTSTORE_DATABASE_URL": "postgresql://db/shop",
            "CARTSTORE_JWT_SECRET": SECRET,
            "CARTSTORE_PUBLIC_URL": "https://shop.example/api",
        }
    )

    assert settings.is_production
    assert settings.public_origin == "https://shop.example"


def test_production_needs_no_public_url_when_nobody_is_known_by_a_cookie() -> None:
    production = {
        "CARTSTORE_ENV": "production",
        "CARTSTORE_REDIS_URL": "rediss://engine",
        "CARTSTORE_DATABASE_URL": "postgresql://db/shop",
        "CARTSTORE_JWT_SECRET": SECRET,
    }

    with pytest.raises(ConfigurationError, match="CARTSTORE_PUBLIC_URL"):
        load_settings(production)
    assert load_settings({**production, "CARTSTORE_GUEST_CARTS": "off"}).public_origin is None


def test_origins_are_read_as_browsers_send_them() -> None:
    settings = Settings(
        cors_origins="https://A.example:443/, http://b.example:8080,, http://[::1]:80 ,https://c.example"
    )

    assert settings.allowed_origins == (
        "https://a.example",
        "http://b.example:8080",
        "http://[::1]",
        "https://c.example",
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("CORS_ORIGINS", "*"),
        ("CORS_ORIGINS", "https://a.example, https://*.example"),
        ("CORS_ORIGINS", "a.example"),
        ("CORS_ORIGINS", "null"),
        ("CORS_ORIGINS", "https://a.example/shop"),
        ("CORS_ORIGINS", "https://a.example?x"),
        ("CORS_ORIGINS", "https://user@a.example"),
        ("CORS_ORIGINS", "https://a.example:99999"),
        ("CORS_ORIGINS", "https://ä.example"),
        ("CORS_ORIGINS", "https://[bad"),
        ("CORS_ORIGINS", "https://a.example https://b.example"),
        ("CORS_ORIGINS", "ftp://a.example"),
        ("CORS_HEADERS", "X Y"),
        ("CORS_HEADERS", "*, X-A: b"),
        ("PUBLIC_URL", "shop.example"),
        ("PUBLIC_URL", "https://user:secret@shop.example"),
        ("PUBLIC_URL", "https://shop.example/?a"),
        ("PUBLIC_URL", "https://shop.example/#a"),
        ("PUBLIC_URL", "https://"),
    ],
)
def test_load_names_the_variable_when_browsers_would_not_send_that(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=ENVIRONMENT_PREFIX + name):
        load_settings({ENVIRONMENT_PREFIX + name: text})


def test_settings_refuse_to_be_changed_when_they_are_read() -> None:
    with pytest.raises(AttributeError):
        Settings().namespace = "other"  # type: ignore[misc]


def test_settings_replaced_are_checked_when_they_contradict() -> None:
    with pytest.raises(ConfigurationError):
        msgspec.structs.replace(Settings(), jwt_secret="short")


def test_load_refuses_a_failpoint_when_it_is_production() -> None:
    with pytest.raises(ConfigurationError, match="CARTSTORE_FAILPOINT"):
        load_settings({"CARTSTORE_ENV": "production", "CARTSTORE_FAILPOINT": "anywhere"})
