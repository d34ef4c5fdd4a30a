"""The same load at another cart."""
