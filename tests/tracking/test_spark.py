"""The registered model as a function of Spark columns, as docs/batch.md shows it. Needs Java and pyspark (extra `spark`)."""

import shutil
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from medrep.cli import main
from tests.tracking.registering import write_audit

pytestmark = [
    pytest.mark.spark,
    pytest.mark.skipif(shutil.which("java") is None, reason="no Java"),
    pytest.mark.filterwarnings("ignore"),  # pyspark's and MLflow's own, of which there are many
]
pyspark = pytest.importorskip("pyspark", reason="pyspark is not installed: pip install 'medrep[spark]'")


def test_a_registered_model_scores_a_spark_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyspark.sql import SparkSession
    from pyspark.sql.functions import struct

    def run(*arguments: object) -> int:
        return main([str(argument) for argument in (*arguments, "--quiet")])

    cohort, trained, store = tmp_path / "cohort", tmp_path / "trained", f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert run("simulate", cohort, "--kind", "features", "--n", 80, "--seed", 5) == 0
    assert run("train", cohort, trained, "--tracking", "none") == 0
    audit = write_audit(tmp_path / "audited", trained / "model")
    assert run("register", trained / "model", "--name", "spark", "--audit", audit, "--tracking-uri", store) == 0
    tables = [pd.read_csv(cohort / name, sep="\t") for name in ("participants.tsv", "features.tsv")]
    rows = tables[0][["participant_id", "age", "sex", "site"]].merge(tables[1], on="participant_id")
    columns = [name for name in rows if name != "participant_id"]

    mlflow.set_tracking_uri(store)
    mlflow.set_registry_uri(store)
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        score = mlflow.pyfunc.spark_udf(
            spark, "models:/spark/1", env_manager="local", result_type="reconstruction_error double, deviation double"
        )
        table = spark.createDataFrame(rows)
        found = table.select("participant_id", score(struct(*columns)).alias("score")).select(
            "participant_id", "score.*"
        )
        by_spark = found.toPandas().set_index("participant_id").loc[rows["participant_id"]]
    finally:
        spark.stop()
    here = mlflow.pyfunc.load_model("models:/spark/1").predict(rows[columns])
    for name in ("reconstruction_error", "deviation"):
        np.testing.assert_allclose(by_spark[name].to_numpy(), here[name].to_numpy(), rtol=1e-9)
