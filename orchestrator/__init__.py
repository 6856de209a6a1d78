"""Specs, plans and runs: one YAML file goes from a laptop to a Ray cluster.

`config.load` reads a spec, `plan.plan` resolves and checks it, `submit.execute` runs it, and the
run directory keeps the truth. Importing this package imports neither ray, mlflow nor numpy.
"""

__version__ = "0.1.0"
