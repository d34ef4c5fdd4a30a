"""Names of WooCommerce's columns. An export has them in the language of who exported it.

The translations are facts read from the language packs of WooCommerce that WordPress.org gives out, at the
strings of includes/export/class-wc-product-csv-exporter.php: ru_RU of 2017-12-16 and 2025-12-10, de_DE of
2025-12-14, es_ES, fr_FR and it_IT of 2022-03-08. The values of the cells are not translated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from cartstore.catalog.headers import folded

_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "ID": (),
    "Type": ("Тип", "Typ", "Tipo"),
    "SKU": ("Артикул", "Artikelnummer", "UGS", "COD"),
    "Name": ("Имя", "Nombre", "Nom", "Nome"),
    "Published": ("Опубликован", "Veröffentlicht", "Publicado", "Publié", "Pubblicato"),
    "Short description": (
        *("Короткое описание", "Краткое описание", "Kurzbeschreibung"),
        *("Descripción corta", "Description courte", "Breve descrizione"),
    ),
    "Description": ("Описание", "Beschreibung", "Descripción", "Descrizione"),
    "Date sale price starts": (
        *("Дата начала действия продажной цены", "Дата начала действия скидки"),
        *("Datum, an dem Angebotspreis beginnt", "Día en que empieza el precio rebajado"),
        *("Date de début de promo", "Data di partenza del prezzo in saldo"),
    ),
    "Date sale price ends": (
        *("Дата окончания действия продажной цены", "Дата окончания действия скидки"),
        *("Datum, an dem Angebotspreis endet", "Día en que termina el precio rebajado"),
        *("Date de fin de promo", "Data in cui termina l'offerta"),
    ),
    "In stock?": ("В наличии?", "Наличие", "Vorrätig?", "¿En inventario?", "En stock ?"),
    "Stock": ("Запасы", "Bestand", "Inventario", "Magazzino"),
    "Backorders allowed?": (
        *("Задержанный заказ возможен?", "Возможен ли предзаказ?", "Lieferrückstande erlaubt?"),
        *("¿Permitir reservas de productos agotados?", "Abilita gli ordini arretrati?"),
        "Autoriser les commandes de produits en rupture ?",
    ),
    "Sold individually?": (
        *("Продано индивидуально?", "Nur einzeln verkaufen?", "¿Vendido individualmente?"),
        *("Vendre individuellement ?", "Venduto singolarmente?"),
    ),
    "Sale price": (
        *("Цена распродажи", "Акционная цена", "Angebotspreis"),
        *("Precio rebajado", "Tarif promo", "Prezzo in offerta"),
    ),
    "Regular price": (
        *("Базовая цена", "Regulärer Preis", "Precio normal"),
        *("Tarif régulier", "Prezzo di listino"),
    ),
    "Images": ("Изображения", "Bilder", "Imágenes", "Immagine"),
    "Parent": ("Родительский", "Übergeordnetes Produkt", "Superior", "Genitore"),
    "Position": ("Позиция", "Posición", "Posizione"),
    "Attribute # name": (
        *("Имя атрибута #", "Название атрибута #", "Attribut # Name"),
        *("Nombre del atributo #", "Nom de l’attribut #", "Attributo # nome"),
    ),
    "Attribute # value(s)": (
        *("Значение(-я) аттрибута(-ов) #", "Значения атрибутов #", "Attribut # Wert(e)"),
        *("Valor(es) del atributo #", "Valeur(s) de l’attribut #", "Attributo # valuta(e)"),
    ),
}
"""Own and other names by WooCommerce's English one; `#` stands for a number."""

_BY_NAME: Final = {folded(name): own for own, names in _NAMES.items() for name in (own, *names)}
_NUMBER: Final = re.compile(r"[0-9]+")


def woocommerce_columns(columns: Sequence[str]) -> tuple[str, ...]:
    """The columns by WooCommerce's English names; those that are no known name stay as they are."""
    return tuple(_english(column) or column for column in columns)


def is_woocommerce_column(name: str) -> bool:
    """Whether the reader knows a column of this name."""
    return _english(name) is not None


def _english(column: str) -> str | None:
    number = _NUMBER.search(column)
    if number is None:
        return _BY_NAME.get(folded(column))
    own = _BY_NAME.get(folded(column[: number.start()] + "#" + column[number.end() :]))
    return own.replace("#", number[0]) if own is not None and "#" in own else None
