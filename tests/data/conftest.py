from tests.data.helpers import REAL

collect_ignore = [] if REAL.exists() else ["test_interop.py"]
