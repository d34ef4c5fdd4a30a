"""The demo catalog: `catalog.csv`, an invented marketplace in Shopify's export format, as package data."""
