"""The conformance suite: every engine has to pass it. Split by verb, one backend-neutral shop per test."""
