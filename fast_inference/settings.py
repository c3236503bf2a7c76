"""The settings of a server, resolved once: flags > environment `FAST_INFERENCE_*` > YAML file > defaults.

Called by `cli.py` and `cli_openai.py`; the launcher writes the result to `config.json` in the run dir, where the other
processes read their sections. Owns what a wrong setting looks like to people: one line that names the flag, variable
or file and key where it came from, and the nearest name that exists.
The fields themselves, their defaults and limits are in `ipc/config.py`.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from fast_inference.api_keys import read_key_file
from fast_inference.flags import ENVIRONMENT_PREFIX, SECTIONS, environment_name, flag_name, nearest
from ipc.config import (
    DEFAULT_MODEL_ALIAS,
    FAKE_MODEL,
    MAX_PORT,
    SECRET_SETTINGS,
    CacheConfig,
    ConnectionConfig,
    FakeModelConfig,
    FrontendConfig,
    LauncherConfig,
    LogConfig,
    ModelConfig,
    SchedulerConfig,
    TracingConfig,
)
from ipc.endpoint_config import EndpointConfig
from ipc.errors import ConfigError
from ipc.process import LAUNCHER_PID_VARIABLE
from ipc.ray_config import RayConfig

_UNUSED_BY_FAKE_MODEL = (
    "tokenizer",
    "dtype",
    "device",
    "model_impl",
    "quantization",
    "threads",
    "lora",
    "kv_cache_memory_bytes",
)
_OF_CORES = (
    *ModelConfig.model_fields,
    *CacheConfig.model_fields,
    *SchedulerConfig.model_fields,
    *FakeModelConfig.model_fields,
    "cores",
    "hang_timeout",
)
_OF_FRONTENDS = (
    "host",
    "frontend_ports",
    *(name for name in FrontendConfig.model_fields if name != "served_model_name"),
    *ConnectionConfig.model_fields,
)
_SERVICE_LINK = re.compile(
    ENVIRONMENT_PREFIX + r"(\w+_)?(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
"""What Kubernetes tells a pod of a Service named `fast-inference`."""
_BASE_60 = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
_MAX_SHOWN_CHARS = 80


class _SettingsLoader(yaml.SafeLoader):
    """YAML in which a key that is there twice is an error; YAML's own reader keeps the last one and says nothing.

    `1:3` is a text, as in YAML 1.2, and not the number 63 of YAML 1.1.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The values by key."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.constructor.ConstructorError(problem=f"{twice} is there twice")
        return super().construct_mapping(node, deep)

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> Any:
        """The tag of a node."""
        if kind is yaml.ScalarNode and implicit[0] and _BASE_60.fullmatch(value):
            return self.DEFAULT_SCALAR_TAG
        return super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]


def _values_in(text: str) -> Any:
    loader = _SettingsLoader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


class _Environment(EnvSettingsSource):
    """Environment variables; a list is written as JSON or with commas."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """Leave what is no JSON array to the validators."""
        if not value.lstrip().startswith("["):
            return value
        try:
            return json.loads(value)
        except ValueError:
            message = f"{environment_name(field_name)}: begins with [ and is no list in JSON"
            raise ConfigError(message) from None  # the value may be a secret


class _YamlFile(PydanticBaseSettingsSource):
    """The file that a stronger source named as `config`."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """One value of the file, by field name."""
        return self().get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        """All values of the file."""
        path = self.current_state.get("config")
        return read_settings_file(Path(path)) if path else {}


class Settings(
    BaseSettings,
    LauncherConfig,
    ModelConfig,
    FrontendConfig,
    ConnectionConfig,
    SchedulerConfig,
    CacheConfig,
    EndpointConfig,
    RayConfig,
    TracingConfig,
    LogConfig,
    FakeModelConfig,
):
    """All sections side by side: what `config.json` holds."""

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True)

    config: Path | None = Field(None, description="YAML file with settings")

    @field_validator(
        "lora",
        "connect",
        "served_model_name",
        "api_key",
        "admin_api_key",
        "allowed_origins",
        "allowed_methods",
        "allowed_headers",
        "allowed_hosts",
        mode="before",
    )
    @classmethod
    def _split_list(cls, value: Any) -> Any:
        return tuple(item.strip() for item in value.split(",")) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _serves_somebody(self) -> Self:
        """Raises ConfigError, which pydantic passes on as it is."""
        if not self.frontends and self.core_endpoint is None:
            raise ConfigError("--frontends 0 needs --core-endpoint: else nobody could use the core")
        if self.connect and self.executor == "ray":
            raise ConfigError("--connect and --executor ray: either you know where the cores are, or Ray does")
        return self

    @model_validator(mode="after")
    def _has_cores_that_its_executor_can_run(self) -> Self:
        """Raises ConfigError, which pydantic passes on as it is."""
        if self.executor == "local" and isinstance(self.cores, str):
            raise ConfigError(
                f"--cores {self.cores}: on one machine the number is fixed: use --cores {self.num_cores}, or "
                "--executor ray"
            )
        if self.executor == "ray" and self.core_endpoint is not None:
            raise ConfigError("--core-endpoint and --executor ray: each core finds an address of its own on its node")
        return self

    @model_validator(mode="after")
    def _has_a_port_for_each_core(self) -> Self:
        """Raises ConfigError, which pydantic passes on as it is."""
        if self.core_endpoint is not None:
            first = self.core_port
            if first + self.num_cores - 1 > MAX_PORT:
                raise ConfigError(f"--core-endpoint: {self.num_cores} ports from {first} on end above {MAX_PORT}")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Strongest first: flags (as keywords), environment, YAML file."""
        return init_settings, _Environment(settings_cls), _YamlFile(settings_cls)


def resolve_settings(flags: Mapping[str, Any], settings_class: type[Settings] = Settings) -> Settings:
    """Merge flags (by field name, raw strings allowed) with the weaker sources and check everything.

    Raises:
        ConfigError: one line that names the flag, variable or key that is wrong.
    """
    refuse_unknown_variables(os.environ)
    try:
        settings = settings_class(**flags)
    except ValidationError as error:
        messages = dict.fromkeys(_problem(item, flags) for item in error.errors(include_url=False))
        raise ConfigError("; ".join(messages)) from (None if _is_about_secrets(error) else error)
    if settings.api_key_file is None:
        return settings
    keys = dict.fromkeys((*settings.api_key, *read_key_file(settings.api_key_file)))
    return settings.model_copy(update={"api_key": tuple(keys)})


def read_settings_file(path: Path) -> dict[str, Any]:
    """Read a YAML file with settings by field name, kebab-case or snake_case.

    Raises:
        ConfigError: the file cannot be read, is no map, or has a key that is no setting.
    """
    try:
        values = _values_in(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a map of settings, not a {type(values).__name__}")
    known = set(Settings.model_fields) - {"config"}
    result: dict[str, Any] = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise ConfigError(f"{path}: unknown setting {key}{nearest(str(key), _yaml_names(known))}")
        if name in result:
            raise ConfigError(f"{path}: {key} is there twice")
        result[name] = value
    return result


def refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    """Raise `ConfigError` for variables with our prefix that are no settings: most likely typing errors.

    What Kubernetes sets in every pod beside a Service named `fast-inference` is left alone.
    """
    known = {environment_name(field) for field in Settings.model_fields} | {LAUNCHER_PID_VARIABLE}
    ours = sorted(name for name in environment if name.startswith(ENVIRONMENT_PREFIX) and name.upper() not in known)
    unknown = [name for name in ours if not _SERVICE_LINK.fullmatch(name)]
    if unknown:
        lines = [f"environment variable {name} is no setting{nearest(name, known)}" for name in unknown]
        raise ConfigError("; ".join(lines))


def unused_setting_warnings(settings: Settings) -> list[str]:
    """One line for each setting that was changed and that this model does not look at."""
    unused: list[tuple[Iterable[str], str]] = []
    if settings.connect:
        unused.append((_OF_CORES, "has no effect with --connect: whoever starts the cores sets it"))
    elif settings.model == FAKE_MODEL:
        unused.append((_UNUSED_BY_FAKE_MODEL, "has no effect on the fake model"))
    else:
        unused.append((FakeModelConfig.model_fields, f"has an effect only with --model {FAKE_MODEL}"))
    if not settings.frontends:
        unused.append((_OF_FRONTENDS, "has no effect with --frontends 0"))
    return [
        f"{flag_name(name)} {reason}"
        for fields, reason in unused
        for name in fields
        if getattr(settings, name) != Settings.model_fields[name].default
    ]


def served_names(settings: Settings) -> tuple[str, ...]:
    """The names that clients may use for the model; the first is the one that we print. None where cores on other hosts
    say what their model is called.

    Raises:
        ConfigError: an adapter has one of these names, or the file system refuses to look for the model.
    """
    names = settings.served_model_name or (() if settings.connect else _default_names(settings))
    if taken := settings.adapters.keys() & set(names):
        raise ConfigError(f"--lora: the model itself is served under the name {min(taken)}")
    return names


def _default_names(settings: Settings) -> tuple[str, ...]:
    model_id = settings.model
    try:
        path = Path(os.path.expanduser(model_id)).resolve()
        if model_id and path.exists():
            model_id = path.stem if path.is_file() else path.name
    except (OSError, ValueError) as error:
        raise ConfigError(f"no model {shortened(model_id)!r}: {getattr(error, 'strerror', None) or error}") from error
    return tuple(dict.fromkeys((model_id, DEFAULT_MODEL_ALIAS)))


def shortened(text: str) -> str:
    """The text, or its beginning where it is too long for one line of an error."""
    return text if len(text) <= _MAX_SHOWN_CHARS else text[:_MAX_SHOWN_CHARS] + "…"


def settings_as_yaml(settings: Settings) -> str:
    """The settings as a file that `--config` reads."""
    values = settings.model_dump(mode="json")
    names = [name for section in SECTIONS for name in section.model_fields]
    text: str = yaml.safe_dump({name.replace("_", "-"): values[name] for name in names}, sort_keys=False)
    return text


def _yaml_names(fields: Iterable[str]) -> list[str]:
    """As files write them, in both spellings, kebab-case first."""
    return [*(name.replace("_", "-") for name in fields), *fields]


def _problem(item: ErrorDetails, flags: Mapping[str, Any]) -> str:
    field = str(item["loc"][0])
    source = _source_of(field, flags)
    if source == environment_name("port") and str(item["input"]).startswith("tcp://"):
        return (
            f"{source}: set by Kubernetes for a Service of this name (enableServiceLinks: false in the pod, or --port)"
        )
    message = item["msg"].partition(", unable to parse")[0].removeprefix("Value error, ")
    message = message.replace("Input should be", "must be", 1).replace("String should have", "must have", 1)
    value = "" if field in SECRET_SETTINGS else f", not {item['input']!r}"
    return f"{source}: {message}{value}"


def _is_about_secrets(error: ValidationError) -> bool:
    return any(item["loc"][0] in SECRET_SETTINGS for item in error.errors(include_url=False))


def _source_of(field: str, flags: Mapping[str, Any]) -> str:
    if field in flags:
        return flag_name(field)
    variable = environment_name(field)
    if os.environ.get(variable):
        return variable
    config = flags.get("config") or os.environ.get(environment_name("config"))
    return f"{config}: {field.replace('_', '-')}" if config else f"setting {field}"
