"""`python -m divprune_hf.cli` is `divprune-hf`."""

import sys

from divprune_hf_console import main


sys.exit(main())
