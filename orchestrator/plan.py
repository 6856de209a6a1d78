"""plan(spec) -> RunPlan: what will run, resolved and checked before anything is made.

The job is imported and its `Config` validates `params`; paths become absolute; the request is
compared with what the machine or cluster has. A plan prints, goes through JSON and back unchanged,
and carries a hash of what runs.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import pkgutil
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import to_jsonable_python

import orchestrator
from orchestrator.config import Loaded, Source, by_line, explain
from orchestrator.errors import ConfigError, UsageError, did_you_mean
from orchestrator.remote import is_uri
from orchestrator.spec import JobSpec

__all__ = ["RunPlan", "default_home", "find_job", "jobs_available", "new_run_id", "plan", "render"]

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


class RunPlan(BaseModel):
    """Everything a run needs to know, frozen.

    `shards` is the number of parts of every global batch, fixed for the whole run; None (with
    `determinism: fast`): as many as an attempt has workers, and otherwise that nothing is trained.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    run_id: str
    spec: JobSpec
    job_module: str
    engine: Literal["training", "batch"]
    shards: int | None = None
    config: dict[str, Any]
    home: str
    run_dir: str
    address: str | None = None
    code: dict[str, str | None]
    created_at: float
    hash: str


def plan(
    loaded: Loaded,
    *,
    run_id: str | None = None,
    home: str | os.PathLike[str] | None = None,
    address: str | None = None,
    available: Mapping[str, float] | None = None,
) -> RunPlan:
    """Resolve and check a spec. Nothing is written.

    Args:
        available: {"CPU": 2.0, ...} that the request must fit into; None: not compared.

    Raises:
        ConfigError: no such job, or parameters its Config refuses; each line carries its place.
    """
    spec, source = loaded.spec, loaded.source
    if run_id is not None and not _RUN_ID.fullmatch(run_id):
        raise UsageError(
            f"--run-id: {run_id!r} cannot name a directory; expected letters, digits, '.', '_', "
            "'-'."
        )
    module = find_job(spec.job, source)
    config, problems = _config(module, spec, source)
    shards, wrong = _shards(spec, module)
    problems += [f"{source.where(path)}: {text}" for path, text in wrong]
    shortage = _shortage(spec, available)
    if shortage:
        problems.append(f"{source.where(('resources', 'workers'))}: {shortage}")
    if spec.storage and is_uri(spec.storage) and module.ENGINE == "batch":
        text = "a batch job keeps its table in a directory; expected a path, or null."
        problems.append(f"{source.where(('storage',))}: storage is {spec.storage!r}, but {text}")
    if problems:
        raise ConfigError(sorted(problems, key=by_line))
    engine = module.ENGINE
    code = {"version": orchestrator.__version__, "git": _git_state(module)}
    run_id = run_id or new_run_id(spec.name)
    home = Path(home or default_home()).absolute()
    storage = home
    if spec.storage and not is_uri(spec.storage):
        storage = Path(spec.storage).expanduser().absolute()
    return RunPlan(
        run_id=run_id,
        spec=spec,
        job_module=module.__name__,
        engine=engine,
        shards=shards,
        config=config,
        home=str(home),
        run_dir=str(storage / run_id),
        address=address or loaded.address,
        code=code,
        created_at=time.time(),
        hash=_hash(
            {
                "spec": spec.model_dump(mode="json"),
                "shards": shards,
                "config": config,
                "code": code,
            }
        ),
    )


def default_home() -> Path:
    """$ORCHESTRATOR_HOME or ./runs, absolute."""
    return Path(os.environ.get("ORCHESTRATOR_HOME") or "runs").expanduser().absolute()


def new_run_id(name: str) -> str:
    """`name-YYYYmmdd-HHMMSS-xxxx`, the time in UTC."""
    return f"{name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"


def find_job(name: str, source: Source | None = None) -> ModuleType:
    """The module of a job: `jobs.<name>`, or a dotted name as it is.

    Raises ConfigError when there is none (naming those there are), when its import fails, or when
    it lacks what a job needs.
    """
    where = source.where(("job",)) if source else "job"
    module_name = name if "." in name else f"jobs.{name}"
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # the console script starts without it
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise ConfigError(f"{where}: there is no job '{name}'{_other_jobs(name)}") from None
        raise ConfigError(f"{where}: job '{name}' cannot be imported: {error}.") from error
    except Exception as error:
        raise ConfigError(
            f"{where}: job '{name}' cannot be imported: {type(error).__name__}: {error}"
        ) from error
    missing = [part for part in ("ENGINE", "Config") if not hasattr(module, part)]
    if missing:
        raise ConfigError(
            f"{where}: module {module_name} is not a job; it has no {' and no '.join(missing)}."
        )
    if module.ENGINE not in ("training", "batch"):
        raise ConfigError(
            f"{where}: {module_name}.ENGINE is {module.ENGINE!r}; expected 'training' or 'batch'."
        )
    return module


def jobs_available() -> list[str]:
    """Names of the modules of the package `jobs` that are jobs, without importing them."""
    package = importlib.util.find_spec("jobs")
    if package is None or package.submodule_search_locations is None:
        return []
    found = []
    for module in pkgutil.iter_modules(list(package.submodule_search_locations)):
        spec = importlib.util.find_spec(f"jobs.{module.name}")
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            continue
        text = Path(spec.origin).read_text(encoding="utf-8")
        if re.search(r"^ENGINE\b", text, re.M) and re.search(r"^class Config\b", text, re.M):
            found.append(module.name)
    return sorted(found)


def params_problems(job: Any, params: Any, source: Source) -> list[str]:
    """What the job's Config says about `params`; nothing where the job itself cannot be found."""
    if not isinstance(job, str) or not isinstance(params, dict):
        return []
    try:
        module = find_job(job, source)
        module.Config.model_validate_json(json.dumps(params))
    except ConfigError as error:
        return error.problems
    except ValidationError as error:
        return explain(error, module.Config, params, source, ("params",))
    return []


def render(plan: RunPlan) -> str:
    """The plan for people: what, where, how much, and each parameter as it will be used."""
    spec = plan.spec
    retry = spec.retry
    rows = [
        ("job", f"{plan.job_module} ({plan.engine})"),
        ("workers", _workers(spec)),
        ("cluster", plan.address or "an embedded Ray, started for the run"),
        ("run directory", plan.run_dir),
        *([("storage", spec.storage)] if spec.storage and is_uri(spec.storage) else []),
        ("tracking", spec.tracking.uri or f"SQLite under {plan.home}"),
        ("experiment", spec.tracking.experiment or spec.name),
    ]
    if plan.shards or spec.determinism == "fast":
        rows += [
            ("shards", str(plan.shards or "one per worker") + f" ({spec.determinism})"),
            ("checkpoints", _checkpoints(spec)),
        ]
    if plan.engine == "training":
        retries = (
            f"{retry.errors} errors, {retry.worker_deaths} worker deaths, "
            f"{retry.preemptions} preemptions; silent for {retry.hang_timeout_s:g} s is hung"
        )
        rows.append(("retries", retries))
    rows += [
        ("seed", str(spec.seed)),
        ("code", f"orchestrator {plan.code['version']}, git {plan.code['git'] or 'unknown'}"),
        ("hash", plan.hash),
    ]
    width = max(len(name) for name, _ in rows)
    text = [f"{spec.name}", *(f"  {name:<{width}}  {value}" for name, value in rows), "  params"]
    config = yaml.safe_dump(plan.config, sort_keys=False, allow_unicode=True) if plan.config else ""
    return "\n".join([*text, *(f"    {line}" for line in config.splitlines())])


def _workers(spec: JobSpec) -> str:
    resources = spec.resources
    per, low, high = resources.cpus_per_worker, resources.min_workers, resources.max_workers
    if resources.elastic:
        return f"{low} to {high} x {per} CPU = {low * per} to {high * per} CPU"
    return f"{high} x {per} CPU = {high * per} CPU"


def _checkpoints(spec: JobSpec) -> str:
    said = spec.checkpoint
    every = [
        f"{number:g} {unit}"
        for number, unit in (
            (said.every_steps, "steps"),
            (said.every_epochs, "epochs"),
            (said.every_minutes, "minutes"),
        )
        if number
    ]
    when = f"every {', '.join(every)}" if every else "only where the job asks"
    for_ever = f", every {said.keep_every} steps for ever" if said.keep_every else ""
    return f"{when}, keep {said.keep}{for_ever}" + (f", best by {said.best}" if said.best else "")


# What only some jobs look at: others that set one of these would find it ignored. A module of the
# engine training says by `TRAINS = False` that it has no training state.
_OF_TRAININGS = (("seed",), ("determinism",), ("shards",), ("checkpoint",))
_OF_ATTEMPTS = (
    ("retry", "errors"),
    ("retry", "preemptions"),
    ("retry", "hang_timeout_s"),
)


def _ignored(
    spec: JobSpec, paths: tuple[tuple[str, ...], ...], kind: str
) -> list[tuple[tuple[str, ...], str]]:
    """Those of `paths` that were set although they have no effect on `kind`."""
    usual = JobSpec(version=1, name=spec.name, job=spec.job)
    problems = []
    for path in paths:
        get = attrgetter(name := ".".join(path))
        if get(spec) != get(usual):
            text = f"{name} has no effect on {kind}; expected it to be left out."
            problems.append((path, text))
    return problems


def _shards(
    spec: JobSpec, module: ModuleType
) -> tuple[int | None, list[tuple[tuple[str, ...], str]]]:
    """The number of shards of a run, and what is wrong with what was said about them."""
    most = spec.resources.max_workers
    if module.ENGINE == "batch":
        return None, _ignored(spec, (*_OF_TRAININGS, *_OF_ATTEMPTS), "a batch job")
    if not getattr(module, "TRAINS", True):
        return None, _ignored(spec, _OF_TRAININGS, f"{spec.job}, which trains nothing")
    problems: list[tuple[tuple[str, ...], str]] = []
    if spec.determinism == "fast":
        if spec.shards is not None:
            text = "with determinism: fast there is one shard per worker; expected it to be null."
            problems.append((("shards",), f"shards is {spec.shards}, but {text}"))
        return None, problems
    shards = spec.shards or 4 * max(1, -(-most // 4))
    if most > shards:
        text = f"shards is {shards}, but up to {most} workers share them"
        hint = f"Hint: --set shards={most}."
        problems.append((("shards",), f"{text}; expected at least one each. {hint}"))
    return shards, problems


def _config(module: ModuleType, spec: JobSpec, source: Source) -> tuple[dict[str, Any], list[str]]:
    try:
        config = module.Config.model_validate_json(json.dumps(spec.params))
    except ValidationError as error:
        return {}, explain(error, module.Config, spec.params, source, ("params",))
    check = getattr(config, "check", None)
    if check is not None:
        try:
            check(spec.resources)
        except (ValueError, OSError) as error:
            return {}, [_placed(line, source) for line in str(error).splitlines()]
    dumped = to_jsonable_python(_absolute(config.model_dump(mode="python")))
    return dumped, []


def _placed(line: str, source: Source) -> str:
    """A problem that a Config's `check` found; `data.root: ...` gets the place of that key."""
    key = re.match(r"([\w.]+): ", line)
    path = ("params", *key[1].split(".")) if key else ("params",)
    if key and path in source.marks:
        return f"{source.where(path)}: params.{line}"
    return f"{source.where(('params',))}: {line}"


def _absolute(value: Any) -> Any:
    """Paths made absolute: workers have other working directories."""
    if isinstance(value, Path):
        return str(value.expanduser().absolute())
    if isinstance(value, dict):
        return {key: _absolute(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_absolute(item) for item in value]
    return value


def _shortage(spec: JobSpec, available: Mapping[str, float] | None) -> str | None:
    if available is None:
        return None
    resources = spec.resources
    workers, have = resources.min_workers, available.get("CPU", 0.0)
    need = workers * resources.cpus_per_worker
    if need <= have:
        return None
    fit = int(have) // resources.cpus_per_worker
    hint = f" Hint: --set resources.workers={fit}." if fit else ""
    return (
        f"needs {need} CPUs ({workers} workers x {resources.cpus_per_worker}), "
        f"this machine has {have:g}.{hint}"
    )


def _other_jobs(name: str) -> str:
    found = jobs_available()
    close = did_you_mean(name, found)
    if close:
        return f". Hint: did you mean '{close}'?"
    return f"; expected one of {', '.join(found)}." if found else "; none were found."


def _git_state(module: ModuleType) -> str | None:
    """Commit of the job's repository, with `-dirty` when tracked files differ; None without git."""
    if not getattr(module, "__file__", None):
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            command,
            cwd=Path(str(module.__file__)).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _hash(value: Any) -> str:
    """sha256 of the canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
