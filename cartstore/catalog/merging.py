"""What becomes of one product when a file is imported: a merge of what is stored, what the last import said,
and what this file says. Pure; owns which of the three counts, field by field.

- A field that the file has no column for stays as it is stored.
- A field that the file says as its last import did stays as well: what an admin did since counts.
- Any other field is taken from the file. The exceptions are fields that decide whether and how much can be
  sold (KEPT_AT_FIRST): of a product or SKU that exists they are not taken before one import has said them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from cartstore.catalog.import_state import NOTHING_SAID, Said
from cartstore.catalog.parsed import PRODUCT_FIELDS, Note, ParsedProduct, Rejection
from cartstore.errors import InvalidField
from cartstore.model import Product, Variant

KEPT_AT_FIRST: Final = frozenset({"active", "policy", "max_quantity"})

EMPTIED: Final = "emptied"
"""Field of the state: the revision with which an import took the last variant of an active product. While
that is its revision nobody has looked at it since, and it becomes active again with its next variant."""

_MONEY: Final = "_minor"
"""How the names of fields end that are amounts in the product's currency."""


class Known(msgspec.Struct, frozen=True):
    """A variant as the catalog has it, whichever product that is of, listed or not."""

    variant: Variant
    currency: str


class Base(msgspec.Struct, frozen=True, kw_only=True):
    """The product that a file's rows are about, as it is stored."""

    product: Product | None
    """None: there is none yet."""
    said: Said = NOTHING_SAID
    is_deleted: bool = False
    """The rows bring it back. They count whatever was said before; `product` where they say nothing."""

    @property
    def listed(self) -> Mapping[str, Variant]:
        if self.product is None or self.is_deleted:
            return {}
        return {variant.sku: variant for variant in self.product.variants}


class Beside(msgspec.Struct, frozen=True):
    """Stored variants that a product keeps although its rows in the file lack them."""

    own: Sequence[Variant] = ()
    """No file ever had them. Of two variants with the same options they count before one that is new."""
    held: Sequence[Variant] = ()
    """Another product of the file has them and cannot be stored, or a rejected row has. The product is not
    stored without them, or they would end up nowhere."""
    loose: Sequence[Variant] = ()
    """Rows of the product were rejected, and theirs may be among them. They give way to those of the file."""

    @property
    def all(self) -> tuple[Variant, ...]:
        return (*self.own, *self.held, *self.loose)


class Merged(msgspec.Struct, kw_only=True):
    product: Product
    rejections: list[Rejection]
    notes: list[Note]


def said_of_product(parsed: ParsedProduct) -> dict[str, Any]:
    """What a file says of a product, its variants apart."""
    return {
        field: _builtin(getattr(parsed.product, field)) for field in PRODUCT_FIELDS if field in parsed.says
    }


def said_of_variant(parsed: ParsedProduct, variant: Variant) -> dict[str, Any]:
    """What a file says of a variant. Amounts are said in a currency."""
    said: dict[str, Any] = {}
    for field in sorted(parsed.variant_says):
        value = _builtin(getattr(variant, field))
        is_money = field.endswith(_MONEY) and value is not None
        said[field] = [value, parsed.product.currency] if is_money else value
    return said


def _builtin(value: Any) -> Any:
    """As JSON gives it back, where a tuple is a list."""
    return list(value) if isinstance(value, tuple) else msgspec.to_builtins(value)


def differs(now: Said, before: Said) -> bool:
    """Whether a field is said otherwise than before. One that was never said before tells no difference: the
    file has a new column, not a new value."""
    return any(field in before and before[field] != value for field, value in now.items())


def rows_differ(parsed: ParsedProduct, said: Said, said_variants: Mapping[str, Said]) -> bool:
    """Whether the rows of a product say anything that they did not say at the last import. A row that is not
    there any more says nothing."""
    return differs(said_of_product(parsed), said) or any(
        row_differs(parsed, variant, said, said_variants) for variant in parsed.product.variants
    )


def row_differs(
    parsed: ParsedProduct, variant: Variant, said: Said, said_variants: Mapping[str, Said]
) -> bool:
    """Whether the last import had no such row of this product, or another one."""
    before = said_variants.get(variant.sku, NOTHING_SAID)
    return variant.sku not in said.get("variants", ()) or differs(said_of_variant(parsed, variant), before)


def merged(
    parsed: ParsedProduct,
    base: Base,
    *,
    listed: Sequence[Variant],
    beside: Beside,
    known: Mapping[str, Known],
    said_variants: Mapping[str, Said],
) -> Merged:
    """The product as it is to be stored; `listed` are the variants of the file that it is to list. Raises
    InvalidField when they and those beside them cannot be merged."""
    return _Merge(parsed, base, known, said_variants).run(listed, beside)


class _Merge:
    def __init__(
        self,
        parsed: ParsedProduct,
        base: Base,
        known: Mapping[str, Known],
        said_variants: Mapping[str, Said],
    ) -> None:
        self._parsed = parsed
        self._given = parsed.product
        self._base = base
        self._stored = base.product
        self._said = NOTHING_SAID if base.is_deleted else base.said
        self._now = said_of_product(parsed)
        self._known = known
        self._said_variants = said_variants
        self._rejections: list[Rejection] = []
        self._notes: list[Note] = []
        self._names = self._options()
        self._currency = self._given.currency

    def run(self, listed: Sequence[Variant], beside: Beside) -> Merged:
        self._currency = self._currency_of(listed, beside.all)
        placed = self._placed(listed, beside)
        fields = {field: self._field(field) for field in PRODUCT_FIELDS}
        product = msgspec.structs.replace(
            self._given,
            **{**fields, "options": self._names},
            currency=self._currency,
            variants=tuple(placed),
            first_id=self._stored.first_id if self._stored is not None else "",
        )
        return Merged(product=product, rejections=self._rejections, notes=self._notes)

    # --- the product ---------------------------------------------------------------------------

    def _field(self, field: str) -> Any:
        given, stored = getattr(self._given, field), self._stored
        if stored is None:
            return given
        if field == "active" and (self._base.is_deleted or self._said.get(EMPTIED) == stored.revision):
            return given if "active" in self._parsed.says else True
        if field not in self._parsed.says:
            return getattr(stored, field)
        if self._base.is_deleted:
            return given
        if field not in self._said:
            return getattr(stored, field) if field in KEPT_AT_FIRST else given
        return given if self._said[field] != self._now[field] else getattr(stored, field)

    def _options(self) -> tuple[str, ...]:
        """The option names. Those that an admin gave stay while the file's are as at its last import."""
        names: tuple[str, ...] = self._field("options")
        return names

    def _currency_of(self, listed: Sequence[Variant], others: Sequence[Variant]) -> str:
        """Prices are said in the import's currency. A product that an admin priced in another one keeps it
        until the file says another price; then all of its prices come from the file."""
        stored = self._stored
        if stored is None or not self._base.listed or stored.currency == self._given.currency:
            return self._given.currency
        if not any(self._says_price(variant) for variant in listed):
            return stored.currency
        if others:
            raise InvalidField(
                f"The product is priced in {stored.currency}, the file in {self._given.currency}, and"
                f" {others[0].sku} is not in the file.",
                field="currency",
            )
        return self._given.currency

    def _says_price(self, variant: Variant) -> bool:
        said = self._said_variants.get(variant.sku, NOTHING_SAID)
        now = said_of_variant(self._parsed, variant)
        return variant.sku not in self._known or any(
            field not in said or said[field] != value
            for field, value in now.items()
            if field.endswith(_MONEY)
        )

    # --- its variants --------------------------------------------------------------------------

    def _placed(self, listed: Sequence[Variant], beside: Beside) -> list[Variant]:
        """All variants in their order, no two with the same options."""
        taken: set[tuple[str, ...]] = set()
        by_sku: dict[str, Variant] = {}

        def place(variant: Variant) -> bool:
            combination = tuple(variant.options.get(name, "") for name in self._names)
            if combination in taken:
                return False
            taken.add(combination)
            by_sku[variant.sku] = variant
            return True

        for variant in beside.own:
            fitted = self._fitted(variant)
            if fitted is None:
                self._note(variant.sku, "It is not on sale any more: the product's options are others now.")
            else:
                place(fitted)
        # Those first whose options stay, so that a new row cannot take their place.
        for variant in sorted(listed, key=lambda variant: not self._keeps_options(variant)):
            wanted = self._variant(variant)
            if wanted is None:
                self._reject(variant.sku, "The product has other options by now than this row.")
            elif not place(wanted):
                self._reject(variant.sku, "Another variant of this product has the same options.")
        for variant in (*beside.held, *beside.loose):
            fitted = self._fitted(variant)
            if (fitted is None or not place(fitted)) and variant in beside.held:
                raise InvalidField(
                    f"SKU {variant.sku} would be in no product: the row that has it now cannot be taken.",
                    field="variants",
                    sku=variant.sku,
                )
        return [by_sku[sku] for sku in self._order(listed, beside.all) if sku in by_sku]

    def _order(self, listed: Sequence[Variant], others: Sequence[Variant]) -> Iterable[str]:
        """As stored while the file's order is that of its last import, else the file's; others come last."""
        rows = [variant.sku for variant in self._given.variants]
        skus = [variant.sku for variant in listed]
        if self._stored is not None and list(self._said.get("variants", ())) == rows:
            return dict.fromkeys([*(variant.sku for variant in self._stored.variants), *skus])
        return [*skus, *(variant.sku for variant in others)]

    def _fitted(self, variant: Variant) -> Variant | None:
        """A stored variant that the file lacks, under the product's option names; None when it has others."""
        names = self._stored.options if self._stored is not None else ()
        if names != self._names and len(names) == len(self._names):
            values = [variant.options.get(name, "") for name in names]
            return msgspec.structs.replace(variant, options=dict(zip(self._names, values, strict=True)))
        return variant if set(variant.options) == set(self._names) else None

    def _keeps_options(self, variant: Variant) -> bool:
        stored = self._base.listed.get(variant.sku)
        said = self._said_variants.get(variant.sku, NOTHING_SAID)
        return (
            stored is not None
            and set(stored.options) == set(self._names)
            and said.get("options") == variant.options
        )

    def _variant(self, given: Variant) -> Variant | None:
        """A variant of the file as it is to be stored; None when its options do not fit the product's."""
        if self._keeps_options(given):
            options = self._base.listed[given.sku].options
        elif len(self._names) == len(self._given.options):
            values = [given.options[name] for name in self._given.options]
            options = dict(zip(self._names, values, strict=True))
        else:
            return None
        known = self._known.get(given.sku)
        if known is None:
            return msgspec.structs.replace(given, options=options)
        said = self._said_variants.get(given.sku, NOTHING_SAID)
        now = said_of_variant(self._parsed, given)
        fields: dict[str, Any] = {"options": options}
        for field in self._parsed.variant_says - {"options"}:
            is_foreign = field.endswith(_MONEY) and known.currency != self._currency
            if is_foreign or (said[field] != now[field] if field in said else field not in KEPT_AT_FIRST):
                fields[field] = getattr(given, field)
        if known.currency != self._currency and "sale_price_minor" not in fields:
            # The file says no sale, and the one that is stored is an amount of another currency.
            fields["sale_price_minor"] = None
        return msgspec.structs.replace(known.variant, **self._limited(known.variant, given, fields))

    def _limited(self, known: Variant, given: Variant, fields: dict[str, Any]) -> dict[str, Any]:
        """The fields without a policy that would let a counted SKU sell without end."""
        if given.policy == "untracked" != known.policy and "policy" in self._parsed.variant_says:
            self._note(given.sku, f"It stays limited by stock ({known.policy}); the file does not count it.")
            return {field: value for field, value in fields.items() if field != "policy"}
        if known.policy == "untracked" != fields.get("policy", "untracked"):
            self._note(given.sku, "It is limited by stock from now on; importing does not set its stock.")
        return fields

    def _note(self, name: str, text: str) -> None:
        self._notes.append(Note(line=self._parsed.line, name=name, text=text))

    def _reject(self, name: str, reason: str) -> None:
        self._rejections.append(Rejection(line=self._parsed.line, name=name, reason=reason))
