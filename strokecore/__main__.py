"""``python -m strokecore`` is the ``strokecore`` command."""

from strokecore.cli import main

raise SystemExit(main())
