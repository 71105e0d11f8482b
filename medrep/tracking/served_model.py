"""The model as MLflow asks it.

Not this file goes to a registry, but `pyfunc_model`, which leads here and never changes.
"""

import logging
import traceback
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext


class RegisteredModel(PythonModel):  # type: ignore[misc]  # MLflow is untyped here
    """Answers requests with what `medrep.tracking.serving` makes of them; every refusal is a reason, no traceback."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the model folder; another one than was registered is refused."""
        from medrep.tracking.serving import ServedModel  # torch, which who registers need not load

        expected = str((context.model_config or {}).get("digest", ""))
        self._served = ServedModel.load(Path(context.artifacts["model"]), expected)

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Answer a table; see `medrep.tracking.serving.ServedModel.answer` for its columns and the params.

        Raises MlflowException (a 400 when served) with the reason for which the request cannot be used.
        """
        from medrep.errors import MedrepError, printable
        from medrep.tracking.serving import refusal

        if not isinstance(model_input, pd.DataFrame):
            raise MlflowException("send a table: dataframe_split or dataframe_records", INVALID_PARAMETER_VALUE)
        try:
            found = self._served.answer(model_input, **(params or {}))
        except MedrepError as error:
            raise refusal(error) from None
        except (OverflowError, RecursionError):
            raise MlflowException("cells that hold no number and no text", INVALID_PARAMETER_VALUE) from None
        except Exception as error:
            logging.getLogger(__name__).error("request failed\n%s", printable(traceback.format_exc()))
            raise MlflowException(f"the model failed ({type(error).__name__}); see the log", INTERNAL_ERROR) from None
        # JSON has no NaN; what is missing comes back as null.
        return found.astype(object).where(found.notna(), None) if found.isna().to_numpy().any() else found
