"""All the code that goes to a registry with a model: the way into the medrep that is installed.

It never changes, so that medrep knows it again: see `medrep.tracking.logged_code`.
"""

from mlflow.models import set_model

from medrep.tracking.served_model import RegisteredModel

set_model(RegisteredModel())
