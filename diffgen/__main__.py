"""`python -m diffgen` is the `diffgen` command."""

from diffgen.cli import main

raise SystemExit(main())
