"""Pipelines: from a YAML file to a run folder. It knows no step; `mbflow.steps` brings them.

Modules: `document` (YAML with places), `spec` (the grammar), `validate` (all problems at once),
`source` and `dataset` (Parquet in and out), `manifest` and `inputs` (checksums), `plan` (what would
run), `engine` (where), `run` (how), `folder` (the run folder and its check), `events`, `step`.

Example:
    >>> from mbflow.flow.document import Place
    >>> str(Place("a.yaml", 2, 3))
    'a.yaml:2:3'
"""
