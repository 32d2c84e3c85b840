"""`python -m diffgen` is the `diffgen` command."""

from diffgen.cli.main import main

raise SystemExit(main())
