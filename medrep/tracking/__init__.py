"""Training runs in MLflow: where they are kept (``stores``) and what is logged of them (``runs``).

MLflow reports its use to its makers from the moment it is imported, unless this variable is set; here it is off by default.
"""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
