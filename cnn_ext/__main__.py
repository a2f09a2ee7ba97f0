"""``python -m cnn_ext``."""

from cnn_ext.cli import main

raise SystemExit(main())
