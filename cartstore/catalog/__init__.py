"""The catalog: products, their revisions, and import of what other shops export."""
