"""What cartstore is compared with: the least that could answer the same request."""
