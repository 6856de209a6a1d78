"""Models of MLflow's registry: `models:/name/3`, `models:/name@alias`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from orchestrator.errors import BackendUnavailable, UsageError
from orchestrator.tracking.mlflow import database, quiet

__all__ = ["download", "pin"]


def pin(uri: str, home: Path) -> str:
    """The URI with the version that an alias stands for now: it may move while a run lasts.

    The tracker is that of MLFLOW_TRACKING_URI, or the SQLite beside the runs in `home`. Raises
    UsageError where there is no such model, BackendUnavailable where the tracker does not answer.
    """
    found = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", uri)
    if found is None:
        raise UsageError(
            f"mlflow:{uri}: expected mlflow:models:/NAME@ALIAS or models:/NAME/VERSION"
        )
    name, alias, version = found.groups()
    client = _client(home)
    told = _Told(uri)
    with told:
        if alias:
            version = client.get_model_version_by_alias(name, alias).version
        else:
            client.get_model_version(name, version)
    return f"models:/{name}/{version}"


def download(uri: str, home: Path, folder: Path) -> Path:
    """The files of a pinned model version, downloaded below `folder`; gives the directory."""
    quiet()
    import mlflow.artifacts

    folder.mkdir(parents=True, exist_ok=True)
    with _Told(uri):
        source = _client(home).get_model_version_download_uri(
            *uri.removeprefix("models:/").split("/")
        )
        return Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=source, dst_path=str(folder), tracking_uri=_uri(home)
            )
        )


def _uri(home: Path) -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or database(home)


def _client(home: Path) -> Any:
    quiet()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=_uri(home))


class _Told:
    """MLflow's errors in our words."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or not isinstance(error, Exception):
            return
        first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        code = getattr(error, "error_code", "")
        if code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise UsageError(
                f"mlflow:{self.uri}: {first}; expected a registered model. Hint: orchestrator ui"
            ) from error
        raise BackendUnavailable(
            f"mlflow:{self.uri}: cannot be fetched: {first}; expected an MLflow that answers"
        ) from error
