"""The grammar of a pipeline file as pydantic models, and the JSON Schema made from them.

Example:
    >>> from mbflow.flow.spec import PipelineSpec
    >>> sorted(PipelineSpec.model_fields)
    ['env', 'mbflow', 'name', 'run', 'seed', 'sources', 'steps', 'vars']
"""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator
from pydantic_core import PydanticCustomError

from mbflow.flow.step import Catalogue

__all__ = [
    "Parameters",
    "ParquetSpec",
    "PipelineSpec",
    "RunSpec",
    "SourceSpec",
    "StepSpec",
    "schema",
    "schema_text",
]

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Scalar = str | int | float | bool


class Parameters(BaseModel):
    """Base of all parameter models: unknown keys are errors, values are finite, truth is no number.

    Example:
        >>> from mbflow.flow.spec import Parameters
        >>> class Count(Parameters):
        ...     most: int = 3
        >>> Count().most
        3
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=()
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, value: Any, info: Any) -> Any:
        if isinstance(value, bool):
            wanted = set(_leaves(cls.model_fields[info.field_name].annotation))
            # True equals 1, so the choice `1` would take it for itself.
            if wanted & {int, float, 1} and bool not in wanted:
                raise PydanticCustomError(
                    "number", "expected a number, found {found}", {"found": str(value).lower()}
                )
        return value


def _leaves(annotation: Any) -> Iterator[Any]:
    """The plain types and choices that an annotation is made of."""
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is Annotated:
        arguments = arguments[:1]
    if not arguments:
        yield annotation
    for argument in arguments:
        yield from _leaves(argument)


class ParquetSpec(Parameters):
    """`with:` of a `parquet` source.

    Example:
        >>> from mbflow.flow.spec import ParquetSpec
        >>> ParquetSpec(path="data/", label="class").where is None
        True
    """

    path: str | list[str] = Field(
        description="A Parquet file, a folder of them, a glob, or a list of these; "
        "relative to the working directory.",
        examples=["data/letter.parquet", "data/parts/", "data/2026-*.parquet"],
    )
    label: str | None = Field(None, description="The column that holds the class.")
    columns: list[str] | None = Field(
        None, description="The columns to read, by name or glob (`x_*`); all when left out."
    )
    where: str | None = Field(
        None, description="A polars SQL expression; only rows for which it holds are read."
    )

    @field_validator("where")
    @classmethod
    def _understood(cls, where: str | None) -> str | None:
        if where is not None:
            import polars as pl

            try:
                pl.sql_expr(where)
            except pl.exceptions.PolarsError as error:
                raise PydanticCustomError(
                    "where",
                    "expected a polars SQL expression, found {found}: {error}",
                    {"found": f"`{where}`", "error": " ".join(str(error).split())},
                ) from None
        return where

    @field_validator("path", "columns")
    @classmethod
    def _not_empty(cls, value: Any) -> Any:
        if value is not None and len(value) == 0:
            raise PydanticCustomError("empty", "expected at least one, found none")
        if isinstance(value, list) and any(not item for item in value):
            raise PydanticCustomError("empty", "expected a name, found an empty text")
        return value


class SourceSpec(Parameters):
    """One entry of `sources`.

    Example:
        >>> from mbflow.flow.spec import SourceSpec
        >>> SourceSpec(**{"use": "parquet", "with": {"path": "a.parquet"}}).with_.path
        'a.parquet'
    """

    use: Literal["parquet"] = Field(description="The kind of source.")
    with_: ParquetSpec = Field(alias="with", description="What to read.")


class StepSpec(Parameters):
    """One entry of `steps`; `with` is checked by the step's own model.

    Example:
        >>> from mbflow.flow.spec import StepSpec
        >>> StepSpec(**{"use": "select.keep", "from": "score"}).with_
        {}
    """

    use: str = Field(description="The step's name in the catalogue; `mbflow steps` lists them.")
    from_: str | list[str] = Field(
        alias="from", description="The source or step whose output it takes, or a list of them."
    )
    with_: dict[str, Any] = Field(
        default_factory=dict, alias="with", description="The step's parameters."
    )
    seed: Seed | None = Field(None, description="A seed of its own; else the pipeline's.")


class RunSpec(Parameters):
    """How and where the pipeline runs; nothing here changes what comes out.

    Example:
        >>> from mbflow.flow.spec import RunSpec
        >>> RunSpec().out
        'runs'
    """

    engine: Literal["local"] = Field("local", description="What runs the work.")
    out: str = Field(
        "runs", min_length=1, description="The run folder is made in this folder, by name."
    )
    threads: int | None = Field(None, ge=1, le=1024, description="Default: all cores.")
    plugins: list[str] = Field(
        default_factory=list,
        description="Entry points of the group `mbflow.steps` whose steps the file may use.",
    )


class PipelineSpec(Parameters):
    """A whole pipeline file.

    Example:
        >>> from mbflow.flow.spec import PipelineSpec
        >>> PipelineSpec.model_fields["seed"].default
        0
    """

    mbflow: Literal[1] = Field(description="The version of this grammar.")
    name: Name = Field(description="The pipeline's name; also that of its run folder.")
    seed: Seed = Field(0, description="The seed of all random draws.")
    vars: dict[str, Scalar | list[Scalar]] = Field(
        default_factory=dict, description="Values for ${vars.NAME}; `--set vars.NAME=value`."
    )
    env: list[Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]] = Field(
        default_factory=list, description="The environment variables that ${env.NAME} may use."
    )
    sources: dict[Name, SourceSpec] = Field(min_length=1, description="What is read, by name.")
    steps: dict[Name, StepSpec] = Field(min_length=1, description="What is done, by name.")
    run: RunSpec = Field(default_factory=RunSpec, description="How it runs.")


def schema(catalogue: Catalogue) -> dict[str, Any]:
    """The JSON Schema of pipeline files for editors, with the parameters of every step.

    Example:
        >>> from mbflow.flow.spec import schema
        >>> from mbflow.steps import CATALOGUE
        >>> schema(CATALOGUE)["title"]
        'mbflow pipeline'
    """
    result = PipelineSpec.model_json_schema(by_alias=True)
    definitions = result["$defs"]
    base = definitions.pop("StepSpec")
    variants = []
    for step in catalogue:
        name = step.use.replace(".", "_")
        parameters = step.parameters.model_json_schema(
            by_alias=True, ref_template=f"#/$defs/{name}_{{model}}"
        )
        for inner, definition in parameters.pop("$defs", {}).items():
            definitions[f"{name}_{inner}"] = definition
        definitions[name] = {
            **base,
            "title": step.use,
            "description": step.summary,
            "properties": {
                **base["properties"],
                "use": {"const": step.use},
                "with": {**parameters, "description": "The step's parameters."},
            },
        }
        variants.append({"$ref": f"#/$defs/{name}"})
    result["properties"]["steps"]["additionalProperties"] = {"oneOf": variants}
    result["properties"]["steps"].pop("patternProperties", None)
    result["title"] = "mbflow pipeline"
    draft = "https://json-schema.org/draft/2020-12/schema"
    filled: dict[str, Any] = _with_references({"$schema": draft, **result})
    return filled


def _with_references(node: Any) -> Any:
    """Let `${...}` stand wherever a number, a truth value or one of some words may."""
    if isinstance(node, list):
        return [_with_references(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: _with_references(value) for key, value in node.items()}
    # A list: among properties, `type` may be a parameter of that name.
    is_word = node.get("type") == "string" and isinstance(node.get("enum"), list)
    if is_word or node.get("type") in ["integer", "number", "boolean"]:
        kept = {key: node.pop(key) for key in ("title", "description", "default") if key in node}
        return {**kept, "anyOf": [node, {"type": "string", "pattern": r"^\$\{[^{}]*\}$"}]}
    return node


def schema_text(catalogue: Catalogue) -> str:
    r"""`schema` as the text of `pipelines/schema.json`.

    Example:
        >>> from mbflow.flow.spec import schema_text
        >>> from mbflow.steps import CATALOGUE
        >>> schema_text(CATALOGUE).endswith("}\n")
        True
    """
    return json.dumps(schema(catalogue), indent=2, ensure_ascii=False) + "\n"
