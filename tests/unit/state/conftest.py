"""Makes `sim` (the simulated world in tests/sim) importable for the tests of the state."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
