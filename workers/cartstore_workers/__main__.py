"""`python -m cartstore_workers`: one worker, with its settings from the environment."""

from __future__ import annotations

import sys

from cartstore.errors import ConfigurationError
from cartstore.logs import level_of
from cartstore.settings import load_settings
from cartstore_workers.logs import configure_logging
from cartstore_workers.worker import serve


def main() -> int:
    """Exit codes: 0 stopped as asked, 2 the settings do not allow a start."""
    configure_logging()
    try:
        settings = load_settings()
        configure_logging(level_of(settings.log_level))
        return serve(settings)
    except ConfigurationError as error:
        # For whoever started it, as the command line says such things; the log begins with the work.
        print(f"cartstore: {error.for_operators}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
