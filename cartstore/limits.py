"""Every fixed bound of the system, in one place. Owns no logic and reads no setting.

Two kinds live here: ceilings that protect the number formats (Lua numbers are doubles, so every
integer that a script adds up must stay below 2**53), and lengths that protect memory. Limits that a
shop tunes are in `settings.py`; each of those accepts at most `SETTING_MAX`.
"""

from typing import Final

SETTING_MAX: Final = 2**31
"""The largest value that any numeric setting accepts."""

PRICE_MINOR_MAX: Final = 10**11
"""Of one unit, in minor units: a billion in a two-decimal currency."""

QUANTITY_MAX: Final = 2**31
"""Of one line, whatever the settings say."""

STOCK_MAX: Final = 2**40
"""Of on_hand, held, sold and of one adjustment, in units."""

TOTAL_MINOR_MAX: Final = 9 * 10**15
"""Of a cart or an order, in minor units; below 2**53, where doubles stop being exact."""

ID_LENGTH_MAX: Final = 128
"""Of SKUs, product ids, user ids and coupon codes, in characters."""

RESERVED_IDS: Final = frozenset({".", "..", "import", "adjust"})
"""Neither SKUs nor product ids. In a path, clients resolve the first two before they send it, so that the
request means another resource; the other two are words of routes."""

REFERENCE_LENGTH_MAX: Final = 128
REASON_LENGTH_MAX: Final = 64
PAYMENT_METHOD_LENGTH_MAX: Final = 64
TEXT_LENGTH_MAX: Final = 256
"""Of names, address parts and other one-line texts, in characters."""

DESCRIPTION_LENGTH_MAX: Final = 65_536
URL_LENGTH_MAX: Final = 2_048
PROPERTIES_BYTES_MAX: Final = 2_048
"""Of one line's properties, as canonical JSON in UTF-8."""

METADATA_BYTES_MAX: Final = 4_096
"""Of a checkout's metadata, as JSON in UTF-8."""

JSON_DEPTH_MAX: Final = 32
"""Nested arrays and objects of properties and of metadata; the outermost object is the first."""

IDEMPOTENCY_KEY_LENGTH_MAX: Final = 255
IDEMPOTENCY_RING_SIZE: Final = 16
"""How many keys a cart remembers (api.md, headers)."""

VARIANTS_MAX: Final = 2_048
"""Of one product."""

IMAGES_MAX: Final = 250
CURRENCIES_MAX: Final = 200
"""Of one variant's prices: more than ISO 4217 has."""

OPTIONS_MAX: Final = 3
"""Of one product: the number of option names (Shopify's own bound)."""

ADJUSTMENTS_MAX: Final = 1_000
"""In one request."""

PAGE_SIZE_DEFAULT: Final = 50
PAGE_SIZE_MAX: Final = 250

HOLD_LIFETIME_MS_MAX: Final = 2**31 * 1_000
"""No hold or payment window is longer; a later expiry means that the clock stepped back, and is due."""

RELEASES_PER_CALL: Final = 100
"""Due holds that one script call releases on its way before it answers AGAIN."""

RELEASES_PER_STEP: Final = 10
"""Due holds that a call made for nothing else releases. When a crowd falls due it is made again and again,
and everybody else has to wait for two of these calls at most, one of the sweep and one of the buyers, a
quarter of a millisecond each."""

RELEASE_STEPS: Final = 50
"""Such calls, one after the other, that all who want the same SKU wait for together before they try again."""

EXACT_ROUNDS: Final = 2
"""Times that an add waits so before it goes on with units that are free already. What it then tells to be
available is a lower bound; that nothing is available is never told before all that is due is released."""

RELEASE_ROUNDS_MAX: Final = 2_000
"""AGAIN answers that a caller follows before it gives up with StoreUnavailable (never 'sold out')."""

IMPORT_BYTES_MAX: Final = 64 * 1024 * 1024
IMPORT_ROWS_MAX: Final = 200_000

PROCESSES_MAX: Final = 64
"""API processes of one `cartstore up`."""

BEAT_KEPT_MS: Final = 300_000
"""A process that gave no sign of life for so long is forgotten."""

BEAT_PROCESSES_MAX: Final = 512
"""Processes whose last signs of life are kept."""

OUTBOX_BATCH_EVENTS: Final = 2_000
"""Events that one drain transaction applies at most. It makes some twenty statements, however many there are,
and takes a quarter of a second with so many."""

OUTBOX_EVENTS_MAX: Final = 1_000_000
"""At this length of the outbox checkout answers StoreFull, long before memory is full."""

RETENTION_EVENTS_DAYS_MIN: Final = 7
"""Archived events are kept for at least so long, unless they are kept for ever."""

TOMBSTONE_MS: Final = 24 * 3600 * 1000
"""How long the engine keeps an archived, terminal order (and a stock reference) for repeated calls."""
